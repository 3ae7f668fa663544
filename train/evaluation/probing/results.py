"""The probes of a run: which are asked, and their findings; the function behind `launch.evaluate --probes`.

probe_run(load_run("runs/quickstart"), "induction,needle").entries
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from train.evaluation.probes.interface import Findings, Probe
from train.evaluation.probes.names import name_of, parse_probes
from train.evaluation.probing.measure import measure, reader_of
from train.run.loading import LoadedRun


class Entry(NamedTuple):
    """The name of a probe, the option, the findings."""

    name: str
    probe: Probe
    findings: Findings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeResults:
    """The findings of probes on one checkpoint of a run.

    Attributes:
      run, step: the run folder, and the step of the checkpoint.
      num_sequences, seed: as for `train.evaluation.probing.measure.measure`.
      entries: the probes in the order in which they were asked.
    """

    run: str
    step: int
    num_sequences: int
    seed: int
    entries: tuple[Entry, ...]

    def as_json(self) -> dict[str, Any]:
        """The results as JSON values, pictures included; None for a number that is not finite."""
        about = {name: getattr(self, name) for name in ("run", "step", "num_sequences", "seed")}
        probes = []
        for name, probe, found in self.entries:
            numbers = {key: value if math.isfinite(value) else None for key, value in found.numbers.items()}
            pictures = [dataclasses.asdict(picture) for picture in found.pictures]
            named = {"name": name, "probe": {"type": type(probe).__name__} | dataclasses.asdict(probe)}  # type: ignore[call-overload]
            probes.append(named | {"numbers": numbers, "baselines": found.baselines, "pictures": pictures})
        return about | {"probes": probes}


def probe_run(
    run: LoadedRun,
    probes: str,
    *,
    num_sequences: int = 256,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> ProbeResults:
    """Measures a run on probes.

    Args:
      run: the run.
      probes: see `train.evaluation.probes.names.parse_probes`.
      num_sequences: the sequences of each probe; of `Letters` the questions.
      seed: the seed of the sequences.
      say: called with a line before each probe.

    Raises:
      UserError: for an unknown probe, and for one that does not fit the model.
    """
    reader = reader_of(run.experiment, run.tokenizer)
    asked = [(probe, probe.prepare(reader)) for probe in parse_probes(probes, reader)]
    entries = []
    for probe, prepared in asked:
        name = name_of(probe)
        say(f"asking {name}")
        found = measure(
            run.experiment, run.params, run.layout, prepared, reader, num_sequences=num_sequences, seed=seed
        )
        entries.append(Entry(name, probe, found))
    return ProbeResults(
        run=str(run.folder), step=run.step, num_sequences=num_sequences, seed=seed, entries=tuple(entries)
    )

"""The flags of `launch.evaluate` for other evaluations than that of text: probes, and tasks of lm_eval."""

from typing import Any

from absl import flags

from launch.command import cli, streams
from model.errors import UserError
from train.files.paths import local_path

PROBES = flags.DEFINE_string(
    "probes",
    None,
    "Probes instead of text: induction, needle, recall, letters, markov or all, separated by commas, or options such "
    "as 'Needle(lengths=(64, 512))'. With --html a page with their pictures.",
)
SEQUENCES = flags.DEFINE_integer("sequences", 256, "With --probes: the sequences of each.", lower_bound=1)
PROBE_SEED = flags.DEFINE_integer("probe_seed", 0, "With --probes: the seed of the sequences.", lower_bound=0)
HARNESS = flags.DEFINE_list(
    "harness", [], "Tasks of lm_eval instead of text, separated by commas: names of tasks or groups, or .yaml files."
)
HARNESS_FOLDER = cli.define_path("harness_folder", None, "With --harness: a folder with further task files.")
HARNESS_LIMIT = flags.DEFINE_integer("harness_limit", None, "With --harness: documents of each task.", lower_bound=1)
FEWSHOT = flags.DEFINE_integer("num_fewshot", None, "With --harness: examples before each document.", lower_bound=0)


def asked() -> bool:
    """Whether one of these evaluations is asked for. Raises UserError for flags without effect."""
    if PROBES.value is not None and HARNESS.value:
        raise UserError("--probes and --harness are two evaluations; give one at a time")
    needs = {"probes": (SEQUENCES, PROBE_SEED), "harness": (HARNESS_FOLDER, HARNESS_LIMIT, FEWSHOT)}
    given = {"probes": PROBES.value is not None, "harness": bool(HARNESS.value)}
    for name, others in needs.items():
        for flag in others:
            if flag.present and not given[name]:
                raise UserError(f"--{flag.name} has no effect without --{name}; leave it out")
    return any(given.values())


def run_them(run: str, checkpoint: str, mesh: Any, html: str | None, as_json: bool) -> int:
    """Measures a run and prints the results; the arguments are the flags of `launch.evaluate`."""
    if HARNESS.value:
        from train.evaluation.harness.adapter import adapter_class

        adapter_class()  # a missing package is told before the model is read
    from train.run.loading import load_run

    loaded = load_run(run, checkpoint, mesh=mesh)
    if HARNESS.value:
        return _harness(loaded, html, as_json)
    from train.evaluation.probing.page import write_page
    from train.evaluation.probing.results import probe_run
    from train.evaluation.probing.table import table

    results = probe_run(loaded, PROBES.value or "", num_sequences=SEQUENCES.value, seed=PROBE_SEED.value)
    if html is not None:
        write_page(results, local_path(html, "a page"))
    print(streams.as_json(results.as_json()) if as_json else table(results))
    return 0


def _harness(loaded: Any, html: str | None, as_json: bool) -> int:
    from train.evaluation.harness.adapter import evaluate_tasks, table

    if html is not None:
        raise UserError("--html has no page of --harness; take --json")
    folder = None if HARNESS_FOLDER.value is None else local_path(HARNESS_FOLDER.value, "a folder of task files")
    tasks = [task.strip() for task in HARNESS.value if task.strip()]
    result = evaluate_tasks(loaded, tasks, folder, HARNESS_LIMIT.value, FEWSHOT.value)
    print(streams.as_json(result) if as_json else table(result))
    return 0

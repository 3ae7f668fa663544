"""The probes by name, and the text of `--probes`."""

from model.errors import UserError
from model.options.assignments import parse_value
from model.options.tree import check
from model.options.words import nearest
from train.evaluation.probes.induction import Induction
from train.evaluation.probes.interface import Probe, Reader
from train.evaluation.probes.letters import Letters
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probes.needle import Needle
from train.evaluation.probes.recall import Recall

AnyProbe = MarkovChains | Induction | Recall | Needle | Letters
PROBES: dict[str, type[Probe]] = {
    "induction": Induction,
    "needle": Needle,
    "recall": Recall,
    "letters": Letters,
    "markov": MarkovChains,
}


def name_of(probe: Probe) -> str:
    """The name of a probe's class."""
    return next(name for name, cls in PROBES.items() if type(probe) is cls)


def parse_probes(text: str, reader: Reader) -> list[Probe]:
    """The probes that `--probes` asks for.

    Each is a name, for a size that suits the model, or an option written out, such as `Needle(lengths=(64, 512))`;
    commas separate them; "all" stands for every probe that the model can be asked. Raises UserError for anything else.
    """
    found: list[Probe] = []
    for part in _split(text):
        if part == "all":
            found += [probe for cls in PROBES.values() if _fits(probe := cls.for_model(reader), reader)]
        elif part in PROBES:
            found.append(PROBES[part].for_model(reader))
        elif "(" in part:
            option = parse_value(part, AnyProbe, "--probes")
            if not isinstance(option, Probe):
                raise UserError(f"--probes={part}: expected an option such as Needle(lengths=(64, 512))")
            check(option, "--probes")
            found.append(option)
        else:
            raise UserError(f"--probes: no probe is called {part[:60]!r}; {nearest(part, [*PROBES, 'all'])}")
    return found


def _fits(probe: Probe, reader: Reader) -> bool:
    try:
        probe.prepare(reader)
    except UserError:
        return False
    return True


def _split(text: str) -> list[str]:
    """The parts of a text between commas that are outside of parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]

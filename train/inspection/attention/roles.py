"""The roles of heads on random tokens that are repeated; scores.py has their definitions."""

import numpy as np

from train.evaluation.probing.measure import reader_of
from train.inspection.attention.scores import OFFSET, ROLES, HeadScores, measure, repeated_tokens
from train.inspection.page.page import packed
from train.inspection.result import Result, Table, Widget
from train.inspection.subject import Subject
from train.run.loading import LoadedRun

# A head is named after a role from this score on. Half of the queries have no earlier copy.
THRESHOLDS = {"previous_token": 0.4, "duplicate_token": 0.2, "repeated": 0.4, "copying": 0.4, "first_token": 0.5}
WORDS = {
    "previous_token": "previous token",
    "duplicate_token": "duplicate token",
    "induction": "induction (share of all weights)",
    "repeated": "induction (mean over the repetition)",
    "copying": "copying (the same, at the best distance from the earlier copy)",
    "first_token": "first token",
}


def inspect(run: LoadedRun, *, half: int | None = None, sequences: int = 8, seed: int = 0) -> Result:
    """The scores of all heads.

    Args:
      run: the model.
      half: the tokens that are repeated; None for as many as the context holds, 128 at most.
      sequences: the rows of random tokens.
      seed: the seed of the tokens.
    """
    subject = Subject.of(run)
    reader = reader_of(run.experiment, run.tokenizer)
    repeated = repeated_tokens(reader, rows=sequences, half=half, seed=seed)
    scores = measure(subject, repeated)
    roles = named(scores)
    return Result(
        title="Roles of heads",
        about=f"{run.folder}, step {run.step:,} \u00b7 {sequences} rows of {repeated.half} random tokens, twice",
        numbers={
            "half": repeated.half,
            "sequences": sequences,
            "seed": seed,
            "heads": [
                {"layer": layer, "head": head, OFFSET: scores.offsets[layer][head]}
                | {role: scores.by_role[role][layer][head] for role in ROLES}
                for layer, heads in scores.by_role["repeated"].items()
                for head in range(len(heads))
            ],
        },
        arrays={f"{role}_{layer}": x for role in ROLES for layer, x in scores.by_role[role].items()},
        parts=[_best(scores), _map(scores)],
        lines=[
            *(f"{WORDS[role]}: best {best[0]:.3f}, {_place(scores, role)}" for role, best in _bests(scores)),
            *(f"layer {layer}, head {head}: {', '.join(names)}" for (layer, head), names in roles.items()),
        ],
    )


def named(scores: HeadScores) -> dict[tuple[int, int], list[str]]:
    """The heads whose score of a role is at least its threshold, and the names of these roles."""
    found: dict[tuple[int, int], list[str]] = {}
    for role, threshold in THRESHOLDS.items():
        for layer, heads in scores.by_role[role].items():
            for head in np.flatnonzero(heads >= threshold):
                found.setdefault((layer, int(head)), []).append(WORDS[role].split(" (")[0])
    return dict(sorted(found.items()))


def _bests(scores: HeadScores) -> list[tuple[str, tuple[float, int, int]]]:
    return [(role, scores.best(role)) for role in ROLES]


def _place(scores: HeadScores, role: str) -> str:
    """The best head of a role, in words."""
    _, layer, head = scores.best(role)
    where = f"layer {layer}, head {head}"
    return f"{where}, {scores.offsets[layer][head]} after the copy" if role == "copying" else where


def _best(scores: HeadScores) -> Table:
    rows = [
        [WORDS[role], f"{value:.3f}", str(layer), _place(scores, role).split("head ")[1], str(_count(scores, role))]
        for role, (value, layer, head) in _bests(scores)
    ]
    return Table(
        title="The best head of each role",
        head=["role", "score", "layer", "head", "heads with the role"],
        rows=rows,
        caption="A head has a role from a score of "
        + ", ".join(f"{threshold} ({WORDS[role].split(' (')[0]})" for role, threshold in THRESHOLDS.items())
        + " on. Scores of duplicate tokens, and the first one of induction, are shares of all weights: at most about a "
        "half, because the first copy of a token has no earlier one.",
    )


def _count(scores: HeadScores, role: str) -> int | str:
    if role not in THRESHOLDS:
        return "\u2013"
    return sum(int((heads >= THRESHOLDS[role]).sum()) for heads in scores.by_role[role].values())


def _map(scores: HeadScores) -> Widget:
    layers = list(scores.by_role["repeated"])
    widest = max(len(heads) for heads in scores.by_role["repeated"].values())
    values = np.full((len(ROLES), len(layers), widest), np.nan, np.float32)
    for view, role in enumerate(ROLES):
        for row, heads in enumerate(scores.by_role[role].values()):
            values[view, row, : len(heads)] = heads
    return Widget(
        name="heatmap",
        title="All heads",
        data={
            "rows": layers,
            "columns": list(range(widest)),
            "values": packed(values),
            "views": [WORDS[role] for role in ROLES],
            "rowName": "layer",
            "columnName": "head",
            "low": 0,
            "high": 1,
        },
    )

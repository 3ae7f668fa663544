"""Compares a run with baselines: its measures, those of compressors, and the share of its samples that are Python."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from model.errors import UserError
from train.data.shards.dataset import Dataset
from train.evaluation.baselines import text_baselines
from train.evaluation.documents import split_text
from train.evaluation.evaluate import MEASURES, evaluate
from train.evaluation.parsing import parse_share
from train.files.files import read_json, replace_file, write_json
from train.generation.samples import Sample, draw_samples
from train.run.loading import LoadedRun, latest_step, load_run


def compare_with_baselines(
    folder: pathlib.Path, num_files: int, file_tokens: int, say: Callable[[str], None] = print
) -> None:
    """Writes evaluation.json and files.txt of a run, unless they exist for this checkpoint and these sizes.

    Args:
      folder: the run folder.
      num_files: the number of files that the model generates for the parser. If the tokenizer has no token that begins
        a document, the model cannot start a file and generates none.
      file_tokens: the most tokens in each file.
      say: called with a line before each long part of the work.

    Raises:
      UserError: for a run that cannot be loaded, and for the errors of `train.evaluation.evaluate.evaluate`.
    """
    sizes = {"num_files": num_files, "file_tokens": file_tokens}
    newest = latest_step(folder)
    if newest is not None and _is_current(folder, {"step": newest} | sizes):
        return
    run = load_run(folder)
    request = {"step": run.step} | sizes
    if _is_current(folder, request):  # the newest checkpoint is damaged, and the one before it was compared
        return
    dataset = run.dataset()
    say("measuring the validation files, window by window")
    measures = _measure_validation(run)
    say("compressing the same files with gzip and xz")
    baselines = text_baselines(split_text(dataset, "validation"), split_text(dataset, "train"))
    count = 0 if dataset.tokenizer.begin_of_document is None else num_files
    say(f"letting the model write {count} files")
    files = _generate_files(run, dataset, count, file_tokens)
    share = parse_share(files)
    text = "\n".join(f"=== file {i} ===\n{file.text}" for i, file in enumerate(files))
    replace_file(folder / "files.txt", text.encode())
    write_json(
        folder / "evaluation.json",
        {
            **request,
            "validation": measures,
            "baselines": [dataclasses.asdict(baseline) for baseline in baselines],
            "samples": dataclasses.asdict(share) | {"share": share.share},
        },
    )


def _is_current(folder: pathlib.Path, request: dict[str, Any]) -> bool:
    """Whether evaluation.json has the requested results. A file that cannot be read is written again."""
    with contextlib.suppress(UserError):
        previous = read_json(folder / "evaluation.json")
        return all(previous.get(name) == value for name, value in request.items())
    return False


def _measure_validation(run: LoadedRun) -> dict[str, Any]:
    """The measures of the validation split."""
    measures = evaluate(run).as_json()
    return {name: measures[name] for name in (*MEASURES, "tokens", "bytes", "documents_not_restored")}


def _generate_files(run: LoadedRun, dataset: Dataset, count: int, tokens: int) -> list[Sample]:
    """`count` files that the model generates, each of at most `tokens` tokens and at most its context."""
    experiment = run.experiment
    samples = dataclasses.replace(experiment.samples, length=min(tokens, experiment.model.context_length - 1))
    return draw_samples(
        dataclasses.replace(experiment, samples=samples),
        run.params,
        ("",) * count,
        tokenizer=dataset.tokenizer,
        seed=0,
        layout=run.layout,
    )

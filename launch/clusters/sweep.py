"""The runs of a sweep: every variant with every seed, each in a folder of its own."""

import dataclasses
import re
import shlex

from launch.clusters.job import Job
from model.errors import UserError

_VARIANT = "expected NAME: field=value field=value, such as --variant='wide: model.width=512'"


def sweep(job: Job, seeds: str | None, variants: tuple[str, ...]) -> list[Job]:
    """The runs of a job, RUN itself when there is neither a seed nor a variant.

    Args:
      job: what all have in common.
      seeds: seeds and ranges with both ends, such as 1,2,5-8; each run sets training.seed and data.seed.
      variants: texts NAME: field=value ..., quoted as in a shell; the run's folder is RUN/NAME, or RUN/NAME-seed1.

    Raises:
      UserError: for other texts, and for two runs with one folder.
    """
    named = [_variant(text) for text in variants] or [("", ())]
    numbers = [None] if seeds is None else _seeds(seeds)
    jobs = []
    for name, settings in named:
        for seed in numbers:
            parts = [part for part in (name, "" if seed is None else f"seed{seed}") if part]
            own = (*settings, *(() if seed is None else (f"training.seed={seed}", f"data.seed={seed}")))
            run = "/".join([job.run, "-".join(parts)]) if parts else job.run
            jobs.append(dataclasses.replace(job, run=run, settings=(*job.settings, *own)))
    runs = [one.run for one in jobs]
    if twice := sorted({run for run in runs if runs.count(run) > 1}):
        raise UserError(f"two runs of the sweep would have the folder {twice[0]}; give every variant and seed once")
    return jobs


def _variant(text: str) -> tuple[str, tuple[str, ...]]:
    name, colon, changes = text.partition(":")
    try:
        settings = shlex.split(changes)
    except ValueError as error:
        raise UserError(f"--variant={text!r}: {error}; quote as in a shell") from error
    if not colon or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--variant={text!r}: {_VARIANT}")
    if wrong := [setting for setting in settings if "=" not in setting]:
        raise UserError(f"--variant={text!r}: {wrong[0]!r} changes no field; {_VARIANT}")
    return name, tuple(settings)


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for item in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", item, re.ASCII)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not 0 <= last - first < 10_000:
            raise UserError(f"--seeds={text}: expected whole numbers and ranges, such as --seeds=1,2,5-8")
        seeds += range(first, last + 1)
    return seeds

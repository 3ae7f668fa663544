"""The tokenizing process that `train.data.prepare.workers` starts; no module imports this one."""

from __future__ import annotations

import json
import sys

from model.errors import UserError
from train.data.prepare.tokenizing import JobRunner


def main() -> None:
    """Reads the setup, then one job per line, from standard input; answers every job with a line."""
    runner: JobRunner | None = None
    # Output of a library must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if runner is None:
                runner = JobRunner(**message)
                continue
            result = runner.run(message)
        except UserError as error:
            result = {"user_error": str(error)}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()

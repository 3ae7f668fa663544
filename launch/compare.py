"""Compares two runs: setting, numbers, curves, and the final evaluation with an interval over documents.

    python -m launch.compare runs/base runs/wider
    python -m launch.compare runs/base runs/wider --text='held_out/*.txt' --html=comparison.html
    python -m launch.compare runs/base runs/wider --evaluate=false --json

It prints the differences of config, code, data and environment; the first step at which the numbers in metrics.jsonl
differ, and by how much; both losses at common steps, and the steps, tokens and seconds to the same loss; the last
evaluations in the files. Then it evaluates the latest checkpoints of both on the same documents, those of the first
run's validation split or of --text, and gives the interval of the difference: a bootstrap that draws whole documents.

Where the tokenizers of the runs differ, losses per token mean different things: then only bits per byte are compared.
A part that a folder does not have is left out, and a line says so.
"""

from absl import flags

from launch.command import cli, streams
from model.errors import UserError
from train.files.paths import expand_home

A = cli.define_path("a", None, "The first run folder; it may also be the first plain argument.")
B = cli.define_path("b", None, "The second run folder, or the second plain argument.")
TEXT = cli.define_paths("text", "What to evaluate both on; the first run's validation split when not given.")
EVALUATE = flags.DEFINE_bool("evaluate", True, "Whether to evaluate both runs on the same documents.")
DOCUMENTS = flags.DEFINE_integer("documents", 1000, "The most documents to evaluate on.", lower_bound=1)
HTML = cli.define_path("html", None, "A file for the comparison as a page with curves.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of tables.")


def main(argv: list[str]) -> int:
    """Reads the flags and compares."""
    given = [path for path in (A.value, B.value) if path is not None] + [expand_home(path) for path in argv[1:]]
    if len(given) != 2:
        named = f"got {len(given)}: {', '.join(given)}" if given else "got none"
        raise UserError(f"expected two run folders, {named}; try python -m launch.compare runs/a runs/b")
    if TEXT.value and not EVALUATE.value:
        raise UserError("--text has no effect with --evaluate=false; leave one of them out")
    target = cli.page_path("html", HTML.value)
    if EVALUATE.value:
        cli.prepare_jax()
    from train.files.files import replace_file
    from train.lab.comparison.comparison import compare
    from train.lab.comparison.table import lines
    from train.terminal.progress import Progress

    with Progress("evaluating, tokens", enabled=EVALUATE.value and not JSON.value) as progress:
        found = compare(
            given[0],
            given[1],
            texts=TEXT.value,
            evaluate=EVALUATE.value,
            max_documents=DOCUMENTS.value,
            on_progress=progress.update,
        )
    if JSON.value:
        print(streams.as_json(found.as_json()))
    else:
        print("\n".join(lines(found)))
    if target is not None:
        from train.lab.comparison.page import render

        replace_file(target, render(found).encode("utf-8", errors="backslashreplace"))
        if not JSON.value:
            cli.print_escaped(f"\npage: {HTML.value}")
    return 0


if __name__ == "__main__":
    cli.run(main, prints_result=True)

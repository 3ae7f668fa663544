"""Which published config.json files are read, and why the others are not: a page, from a folder of such files.

    python -m tests.parity.published FOLDER > tests/parity/PUBLISHED.md

FOLDER holds the files and an INDEX.tsv whose columns are file, model, model_type, repository, path, commit and kind: where
each file was found. Only config.json is read here, no weights.
"""

import collections
import csv
import json
import pathlib
import sys
import textwrap

from model.config import ModelConfig, model_differences
from model.cost import count_parameters
from model.errors import UserError
from model.families import published_model
from model.families.sizes import SIZES, published
from tests.benchmarks.command import answer_help
from tests.parity.table import table

HEAD = """# Published files that were tried

`python -m tests.parity.published FOLDER` makes this page from config.json files that were found in public repositories,
where people keep the files of the models that they serve or convert. The name of a model is that of the file's folder, so
a file may be an edited one. Only config.json was read; the weights of small models are compared in [README.md](README.md).

- **read**: the family that reads the file; "in" says that the file is that of a multimodal model, whose language model is read.
- **parameters**: of the model that is read.
- **ignored**: keys that no class of the model in `transformers` reads, where their value is not inert.
"""


def outcome(values):
    """Returns (model, family, ignored keys) of a file that is read, or the reason why it is not."""
    try:
        model = published_model(values)
        reading = model.read()
    except UserError as error:
        first, *others = str(error).removeprefix("config.json: ").splitlines()
        reason = first.partition(", and weights quantised")[0]  # also the next reason, where the family is unknown
        detail = f" {others[0].strip()}" if reason.endswith(":") else ""
        return textwrap.shorten(reason + detail, 160, placeholder=" ...")
    whole = "" if model.multimodal is None else f" in {model.multimodal.model_type}"
    return reading.config, model.family.name + whole, ", ".join(reading.ignored)


def page(folder):
    """Returns the page."""
    with open(folder / "INDEX.tsv", newline="") as index:
        rows = [row for row in csv.DictReader(index, delimiter="\t") if "/" not in row["file"]]
    read, refused, configs = [], collections.defaultdict(list), collections.defaultdict(list)
    for row in sorted(rows, key=lambda row: row["model"].lower()):
        found = outcome(json.loads((folder / row["file"]).read_text()))
        if isinstance(found, str):
            refused[found].append(row["model"])
            continue
        config, family, ignored = found
        configs[row["model"]].append(config)
        read.append((row["model"], family, count_parameters(config).total, ignored, row["repository"]))
    reasons = [(len(models), reason, ", ".join(dict.fromkeys(models))) for reason, models in refused.items()]
    total = sum(count for count, _, _ in reasons)
    return "\n".join(
        [
            HEAD,
            f"## Read: {len(read)} of {len(rows)} files\n",
            table(("model", "read", "parameters", "ignored", "found in"), read),
            f"\n## Not read: {total} files\n",
            table(("files", "reason", "models"), sorted(reasons, key=lambda reason: (-reason[0], reason[1]))),
            "\n## Sizes by name\n\nThe names of `model/families/sizes.py`, and the files above that describe the same model.\n",
            table(("name", "the same model as"), _sizes(configs)),
        ]
    )


def _sizes(configs):
    """Yields each name with the models whose files describe it; of files that were not found there is none."""
    for name, values in SIZES.items():
        if not isinstance(values, ModelConfig):
            config = published(name)
            same = [model for model, found in configs.items() if any(_equal(config, one) for one in found)]
            yield name, ", ".join(same) or "not among these files"


def _equal(config, other):
    alike = (config.num_layers, config.width, config.vocab_size) == (other.num_layers, other.width, other.vocab_size)
    return alike and not model_differences(config, other)


if __name__ == "__main__":
    answer_help(__name__, __doc__)
    print(page(pathlib.Path(sys.argv[1])))

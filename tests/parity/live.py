"""Compares every family with `transformers`, live, and prints a table: make parity

    python -m tests.parity.live [--no_greedy] [FAMILY ...]

Columns: the largest difference of logits in units of their standard deviation (for whole rows, and for documents packed
into a row), the largest relative difference of a gradient, and how many of 64 greedy tokens are the same. Below the
table: the largest difference of pooled texts, of files that have BERT's pooler. Exits with status 1 when a number is
over its bound.
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np

from model.options.words import nearest
from model.parameters.specs import is_trained, partition
from model.transformer import specs, stream
from model.vocabulary.pooling import first_token
from tests.benchmarks.command import answer_help, fail
from tests.parity.cases import CASES
from tests.parity.shapes import ENCODERS, PROMPTS
from train.conversion.reading import open_published, read_params

answer_help(__name__, __doc__)
from tests.parity import keys, ours, reference  # noqa: E402
from tests.parity.sources import source_of  # noqa: E402

LOGITS, GRADIENT = 1e-4, 1e-3
POOLED, POOLED_BOUND = ("bert", "roberta"), 1e-5  # of numbers between -1 and 1


def compare(family, shape, greedy):
    """Returns the numbers of one row of the table."""
    source = source_of(family)
    model, ids = source.make(family, shape), reference.tokens(family, shape)
    with tempfile.TemporaryDirectory() as folder:
        source.save(model, folder)
        table, config, params = ours.load(folder)
    logits = ours.logits_of(config, params, *ours.one_document_rows(ids))
    gradient = ours.gradient_of(config, params, *ours.one_document_rows(ids))
    with tempfile.TemporaryDirectory() as folder:
        theirs = source.gradients(model, ids, folder)
    expected, halves = source.logits(model, ids), source.logits(model, ids[:, : reference.HALF])
    trained = lambda tree: partition(tree, specs(config), is_trained)[0]  # noqa: E731, the loss does not depend on the rest
    both = np.concatenate([halves, halves[::-1]], axis=1)
    same = []
    if greedy and family not in ENCODERS:
        prompts = [row[:n].tolist() for row, n in zip(ids, PROMPTS, strict=True)]
        pairs = zip(ours.greedy(config, params, prompts, 64), source.greedy(model, ids), strict=True)
        same = [int(np.equal(a, b).sum()) for a, b in pairs]
    return {
        "logits": np.abs(logits - expected).max() / expected.std(),
        "packed": np.abs(ours.logits_of(config, params, *ours.packed_rows(ids)) - both).max() / expected.std(),
        "gradient": largest_difference(*map(trained, (gradient, ours.params_of(table, config, theirs)))),
        "greedy": min(same, default=64),
    }


def largest_difference(ours, theirs):
    """Returns the largest difference of two gradients within a parameter, in units of its largest entry.

    Entries under a thousandth of the largest entry of all parameters are compared in units of that thousandth: a bias
    of keys changes no attention weight, so its gradient is only rounding.
    """
    theirs, worst = dict(jax.tree_util.tree_leaves_with_path(theirs)), 0.0
    least = 1e-3 * max(float(np.abs(x).max()) for x in theirs.values())
    for path, a in jax.tree_util.tree_leaves_with_path(ours):
        worst = max(worst, float(np.abs(a - theirs[path]).max() / max(np.abs(theirs[path]).max(), least)))
    return worst


def files_with_pooler(family, shape, folder):
    """Saves a model with a pooler; returns token ids and what the pooler makes of each row."""
    import torch
    import transformers

    masked = reference.make(family, shape)
    kind = transformers.BertModel if family == "bert" else transformers.RobertaModel
    torch.manual_seed(1)
    model = kind(masked.config, add_pooling_layer=True)
    body = getattr(masked, family)
    model.load_state_dict(body.state_dict(), strict=False)
    masked.add_module(family, model.eval())  # its files have the pooler beside the weights of masked tokens
    masked.save_pretrained(folder)
    ids = reference.tokens(family, shape)
    with torch.no_grad():
        pooled = model(
            input_ids=torch.tensor(ids, dtype=torch.long), attention_mask=torch.ones(ids.shape)
        ).pooler_output
    return ids, pooled.numpy()


def difference_of_pooled(family, shape):
    """Returns the largest difference of a pooled number."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ids, expected = files_with_pooler(family, shape, folder)
        opened = open_published(folder, folder / "data", parameter_dtype="float32")
        params = read_params(opened.folder, opened.family, opened.tensors, opened.experiment)
    output = stream(opened.experiment.model, params, np.asarray(ids, np.int32))
    return float(np.abs(np.asarray(first_token(params, output.stream_BTD)) - expected).max())


def main(names):
    """Prints the table and returns the exit status."""
    ended, greedy = 0, "--no_greedy" not in names
    names = [name for name in names if name != "--no_greedy"]
    for name in names:
        if name not in CASES:
            fail(f"no family {name!r} to compare; {nearest(name, CASES)}")
    for name, new in ({} if names else keys.unrecorded()).items():
        print(f"{name}: transformers reads keys of config.json that keys.py did not record: {', '.join(new)}")
        ended = 1
    print(f"| {'family':<23} | {'shape':<35} | {'logits':>7} | {'packed':>7} | gradient | greedy |")
    print(f"|{'-' * 25}|{'-' * 37}|{'-' * 8}:|{'-' * 8}:|{'-' * 9}:|{'-' * 7}:|")
    for family in names or CASES:
        for shape in CASES[family]:
            try:
                row = compare(family, shape, greedy)
            except Exception as error:
                print(f"| {family:<23} | {shape:<35} | {type(error).__name__}: {error}", flush=True)
                ended = 1
                continue
            good = max(row["logits"], row["packed"]) < LOGITS and row["gradient"] < GRADIENT and row["greedy"] == 64
            ended |= not good
            numbers = f"{row['logits']:7.1e} | {row['packed']:7.1e} | {row['gradient']:8.1e} | {row['greedy']:>6}"
            print(f"| {family:<23} | {shape:<35} | {numbers} |{'' if good else ' OVER'}", flush=True)
            jax.clear_caches()  # a process cannot map the programs of all shapes into its memory
    for family in [family for family in POOLED if family in (names or CASES)]:
        for shape in CASES[family]:
            found = difference_of_pooled(family, shape)
            ended |= not found < POOLED_BOUND
            print(
                f"pooled texts of {family}, {shape}: {found:.1e}{'' if found < POOLED_BOUND else ' OVER'}", flush=True
            )
    return ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Compares pooled texts with `pooler_output` of `transformers`, live: python -m tests.parity.pooled

The files are those of pre-training (BERT), and of masked tokens with the pooler beside them (RoBERTa), read as
`launch.convert` reads them. Exits with status 1 when a number differs by more than 1e-5; `make parity` runs it too.
"""

import pathlib
import sys
import tempfile

import numpy as np

from model.transformer import stream
from model.vocabulary.pooling import first_token
from tests.benchmarks.command import answer_help
from tests.parity.cases import CASES
from train.conversion.reading import open_published, read_params

answer_help(__name__, __doc__)
from tests.parity import reference  # noqa: E402

FAMILIES = ("bert", "roberta")
BOUND = 1e-5  # of numbers between -1 and 1


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


def difference(family, shape):
    """Returns the largest difference of a pooled number."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ids, expected = files_with_pooler(family, shape, folder)
        opened = open_published(folder, folder / "data", parameter_dtype="float32")
        params = read_params(opened.folder, opened.family, opened.tensors, opened.experiment)
    output = stream(opened.experiment.model, params, np.asarray(ids, np.int32))
    return float(np.abs(np.asarray(first_token(params, output.stream_BTD)) - expected).max())


def main(families=FAMILIES):
    """Prints a line for each shape; returns the exit status."""
    ended = 0
    for family in families:
        for shape in CASES[family]:
            found = difference(family, shape)
            ended |= not found < BOUND
            print(f"pooled texts of {family}, {shape}: {found:.1e}{'' if found < BOUND else ' OVER'}", flush=True)
    return ended


if __name__ == "__main__":
    sys.exit(main())

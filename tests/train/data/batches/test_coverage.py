"""The counts of coverage equal the targets of the batches themselves, for every cut and all begin and end tokens."""

import itertools
import json
import random

import numpy as np
import pytest

from train.data.batches.coverage import Coverage, count_targets
from train.data.batches.pipeline import EvaluationBatches
from train.data.config import Bytes, Characters, Data, SeparateText
from train.data.prepare.prepare import prepare
from train.data.shards.dataset import open_dataset

TOKENIZERS = [Bytes(), Bytes(end_of_document=False), Characters(), Characters(end_of_document=True)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """40 documents of 1 to 12 characters of one to four bytes."""
    draw = random.Random(0)
    texts = ["".join(draw.choices("abé 世界😀\n", k=draw.randint(1, 12))) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "t.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def prepared(text, tokenizer, cross_document_attention, into, path=None):
    data = Data(
        path=str(path or text),
        tokenizer=tokenizer,
        validation=SeparateText(path=str(text)),
        batch_size=3,
        sequence_length=7,
        cross_document_attention=cross_document_attention,
    )
    return open_dataset(prepare(data, into)), data


@pytest.mark.parametrize("cross_document_attention", [False, True])
@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=str)
def test_coverage_is_that_of_the_targets(text, tokenizer, cross_document_attention, tmp_path):
    dataset, data = prepared(text, tokenizer, cross_document_attention, tmp_path)
    end = dataset.end_of_document
    for limit in [None, *range(1, EvaluationBatches(dataset, data).num_batches + 1)]:
        evaluation = EvaluationBatches(dataset, data, limit=limit)
        targets = np.concatenate([b["targets"][b["weights"] > 0] for b in evaluation])
        tokens = targets if end is None else targets[targets != end]
        size = len(tokens) if isinstance(tokenizer, Bytes) else len(dataset.tokenizer.decode(tokens).encode())
        assert evaluation.coverage == Coverage(len(tokens), len(targets) - len(tokens), size), limit


@pytest.mark.parametrize("end", [None, 256])
def test_a_mark_of_its_own_begins_documents(text, end, tmp_path):
    """Tokenizers of published models: a token precedes every token, and end tokens are targets where there are any."""
    dataset, data = prepared(text, Bytes(end_of_document=False), False, tmp_path)
    dataset.tokenizer._begin, dataset.tokenizer.end_of_document, dataset.tokenizer.vocab_size = 257, end, 258
    split = dataset.split("validation")[0]
    evaluation = EvaluationBatches(dataset, data)
    assert evaluation.coverage == Coverage(split.num_tokens, split.num_documents if end else 0, split.num_bytes)
    pairs = []
    for batch in evaluation:
        used = batch["segment_ids"] > 0
        assert np.array_equal(used, batch["weights"] > 0)
        pairs += zip(batch["tokens"][used].tolist(), batch["targets"][used].tolist(), strict=True)
    expected = []
    for document in range(split.num_documents):
        expected += itertools.pairwise([257, *split.tokens(document).tolist(), *([end] if end else [])])
    assert pairs == expected


def test_the_whole_text_is_covered_where_a_mark_begins_it(text, tmp_path):
    dataset, data = prepared(text, Bytes(), False, tmp_path)
    split = dataset.split("validation")[0]
    found = EvaluationBatches(dataset, data).coverage
    assert found == Coverage(split.num_tokens, split.num_documents, split.num_bytes)


def test_targets_are_counted_without_reading_them(text, tmp_path):
    for k, tokenizer in enumerate(TOKENIZERS):
        for cross_document_attention in (False, True):
            dataset, data = prepared(text, tokenizer, cross_document_attention, tmp_path / str(k))
            found = EvaluationBatches(dataset, data).coverage
            lengths = dataset.split("validation")[0].documents["tokens"]
            assert (
                count_targets(lengths, dataset.tokenizer, cross_document_attention) == found.tokens + found.end_tokens
            )

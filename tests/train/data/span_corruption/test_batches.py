"""Batches of text with hidden spans: put together they are the text, and they are pure functions of n."""

import dataclasses

import numpy as np
import pytest

from model.encoder.source import PADDING
from model.errors import UserError
from train.data.batches.pipeline import Batches, EvaluationBatches
from train.data.pairs.batches import FORMATS
from train.data.span_corruption.batches import SpanBatches, SpanEvaluation

END, TOKENS = 256, 257  # of the bytes


def sides(batch, row):
    """The source and the target of a row, without padding."""
    real = batch["source_segment_ids"][row] != PADDING
    assert not real[real.sum() :].any()
    return [*batch["source"][row][real]], [*batch["targets"][row][batch["weights"][row] > 0]]


def joined(source, target, first):
    """The text of a source whose sentinels are replaced by their spans, and the sentinel after the last one."""
    spans, at = {}, None
    for token in target:
        if token > first - 20 and token <= first and token >= TOKENS:
            at = token
            spans[at] = []
        else:
            spans[at].append(token)
    assert [*spans] == [first - i for i in range(len(spans))]
    assert spans[at] == [], "the target ends with a sentinel"
    text = [token for each in source for token in spans.get(each, [each])]
    assert [token for token in source if token in spans] == [*spans][:-1]
    return text


@pytest.mark.parametrize("split", ["train", "validation"])
def test_put_together_they_are_the_text(split, option, dataset):
    first = TOKENS + option.num_sentinels - 1
    if split == "train":
        spans, whole = SpanBatches(dataset, option), Batches(dataset, option.as_data())
        batches, texts = map(spans.rows, range(3)), map(whole.rows, range(3))
    else:
        batches, texts = SpanEvaluation(dataset, option), EvaluationBatches(dataset, option.as_data(), split)
        assert len(batches) == len(texts)
    rows = 0
    for batch, text in zip(batches, texts, strict=True):
        assert {name: x.dtype for name, x in batch.items()} == FORMATS
        assert batch["source"].shape == (4, option.source_length)
        assert batch["targets"].shape == (4, option.sequence_length)
        np.testing.assert_array_equal(batch["tokens"][:, 1:], batch["targets"][:, :-1] * (batch["weights"][:, 1:] > 0))
        for row in range(4):
            expected = text["targets"][row][text["segment_ids"][row] > 0]
            if len(expected) > 1:
                assert joined(*sides(batch, row), first) == [*expected]
                rows += 1
    assert rows > 6


def test_batch_n_depends_on_n_alone(option, dataset):
    batches = SpanBatches(dataset, option)
    ahead = batches.iterator(start=1)
    for n in (1, 2, 3):
        got, expected = next(ahead), batches.rows(n)
        for name in FORMATS:
            np.testing.assert_array_equal(got[name], expected[name])
    ahead.close()
    np.testing.assert_array_equal(batches.rows(2, [3])["source"], batches.rows(2)["source"][3:])
    assert batches.num_targets(2) == batches.rows(2)["weights"].sum()
    assert batches.documents(2) == Batches(dataset, option.as_data()).documents(2)


def test_every_row_hides_other_spans(option, dataset):
    """Of one text, whose spans may lie in some hundred ways."""
    filler = SpanBatches(dataset, option).filler
    assert len({tuple(filler.pair(np.arange(36), number)[1]) for number in range(20)}) > 14


def test_one_pass_over_a_split(option, dataset):
    evaluation = SpanEvaluation(dataset, option)
    batches = list(evaluation)
    assert len(batches) == evaluation.num_batches
    assert evaluation.coverage.tokens == sum(batch["weights"].sum() for batch in batches)
    limited = SpanEvaluation(dataset, option, limit=1, rows=[2])
    assert limited.coverage.tokens == batches[0]["weights"].sum()
    np.testing.assert_array_equal(limited.batch(0)["source"], batches[0]["source"][2:3])
    for one, other in zip(batches, SpanEvaluation(dataset, option), strict=True):
        np.testing.assert_array_equal(one["source"], other["source"])


def test_the_end_of_documents_may_end_both(option, dataset):
    option = dataclasses.replace(option, final="end", first_sentinel=255)
    batch = SpanBatches(dataset, option).rows(0)
    for row in range(4):
        source, target = sides(batch, row)
        assert source[-1] == target[-1] == END
        assert target[0] == 255
        assert len(source) <= option.source_length


def test_characters_without_marks(option, endless):
    dataset, text = endless
    option = dataclasses.replace(option, path=text.path, tokenizer=text.tokenizer, validation=text.validation)
    batch, whole = SpanBatches(dataset, option).rows(0), Batches(dataset, option.as_data()).rows(0)
    for row in range(4):
        source, _ = sides(batch, row)
        assert source[0] == whole["tokens"][row][0], "the first token of a row is kept"
    with pytest.raises(UserError, match="data.final='end': the tokenizer has no mark that ends documents; take"):
        SpanBatches(dataset, dataclasses.replace(option, final="end"))


def test_what_is_shown(option, dataset):
    shown = option.shown(dataset, 3, [1], 200).splitlines()
    assert shown[0].startswith("step 3: batch 2")
    source, target = shown[-1].removeprefix("row    1 ").split(" -> ")
    assert "<0>" in source
    assert target.startswith("'<0>")
    assert target.endswith(f"<{option.num_sentinels - 1}>'")


def test_only_the_fields_asked_for_are_made(option, dataset):
    assert SpanBatches(dataset, option, fields=("tokens", "positions")).rows(0).keys() == {"tokens"}
    with pytest.raises(UserError, match="no field of text with hidden spans is called 'sources'"):
        SpanBatches(dataset, option, fields=("sources",))

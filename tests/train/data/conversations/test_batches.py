"""Batches of conversations: pure, apart, whole; a packed loss is the sum of the losses of conversations alone."""

import dataclasses

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.layout import ONE_DEVICE
from model.transformer import init
from train.alignment.instructions import Instructions, conversation_row, write_rows
from train.data.config import Bytes
from train.data.conversations.option import Conversations, OneToARow, SeparateConversations
from train.data.conversations.tokens import COUNTS
from train.data.prepare.prepare import prepare
from train.data.shards.dataset import open_dataset
from train.objectives.next_token import NextToken

FIELDS = ("tokens", "targets", "weights", "segment_ids", "positions")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for split, count in (("train", 60), ("test", 9)):
        write_rows(folder / f"{split}.jsonl", (conversation_row(Instructions(), n, split) for n in range(count)))
    return Conversations(
        path=str(folder / "train.jsonl"),
        tokenizer=Bytes(),
        validation=SeparateConversations(path=str(folder / "test.jsonl")),
        batch_size=4,
        sequence_length=100,
        seed=3,
    ).starting_from(None)


@pytest.fixture(scope="module")
def dataset(data, tmp_path_factory):
    return open_dataset(prepare(data, tmp_path_factory.mktemp("data") / "data"))


def test_batch_n_is_a_pure_function(data, dataset):
    one, other = (data.training_batches(dataset, FIELDS) for _ in range(2))
    in_order = list(one.iterator(0, stop=8))
    for n in (7, 2):
        for name, rows in other.rows(n).items():
            np.testing.assert_array_equal(rows, in_order[n][name])
        np.testing.assert_array_equal(other.rows(n, [2])["tokens"][0], in_order[n]["tokens"][2])
        assert other.num_targets(n) == int(in_order[n]["weights"].sum())
    seeded = dataclasses.replace(data, seed=4).training_batches(dataset, FIELDS)
    assert any((seeded.rows(n)["tokens"] != in_order[n]["tokens"]).any() for n in range(4))


def test_conversations_are_whole_and_apart_and_answers_count(data, dataset):
    batches = data.training_batches(dataset, FIELDS)
    (split,) = dataset.split("train")
    seen = []
    for n in range(-(-batches.rows_per_epoch[0] // 4)):
        made = batches.rows(n)
        for row in range(4):
            spans = batches.spans(n, row)
            if len(seen) == split.num_documents:
                break
            column = 0
            for k, (span, notes) in enumerate(spans, 1):
                tokens, stop = split.tokens(span.document).astype(np.int32), column + span.stop
                seen.append(span.document)
                assert (span.start, span.stop) == (0, len(tokens) - 1)
                np.testing.assert_array_equal(made["tokens"][row, column:stop], tokens[:-1])
                np.testing.assert_array_equal(made["targets"][row, column:stop], tokens[1:])
                np.testing.assert_array_equal(made["weights"][row, column:stop], notes >= COUNTS)
                np.testing.assert_array_equal(made["positions"][row, column:stop], np.arange(stop - column))
                assert set(made["segment_ids"][row, column:stop].tolist()) == {k}
                answer = conversation_row(Instructions(), span.document, "train")["messages"][1]["content"]
                counted = made["targets"][row, column:stop][made["weights"][row, column:stop] > 0]
                assert counted.tolist() == [*answer.encode(), 256]
                column = stop
            for name in ("segment_ids", "weights"):
                assert not made[name][row, column:].any()
    assert sorted(seen) == list(range(60))
    assert batches.rows_per_epoch[0] < 40  # some rows hold several


def test_documents_are_named(data, dataset):
    spans = data.training_batches(dataset, ()).documents(0, [0], characters=20)
    assert spans[0].name.startswith("train.jsonl:")
    assert spans[0].text.startswith("user:\n")


def test_validation_covers_every_answer_once(data, dataset):
    split = data.evaluation_batches(dataset, "validation", None, range(4))
    batches = list(split)
    assert len(batches) == split.num_batches == len(split)
    answers = [conversation_row(Instructions(), n, "test")["messages"][1]["content"] for n in range(9)]
    assert sum(int(batch["weights"].sum()) for batch in batches) == sum(map(len, answers)) + 9
    assert (split.coverage.tokens, split.coverage.end_tokens, split.coverage.bytes) == (sum(map(len, answers)), 9, 0)
    limited = data.evaluation_batches(dataset, "validation", 1, [1])
    (only,) = limited
    np.testing.assert_array_equal(only["tokens"][0], batches[0]["tokens"][1])


def test_damaged_notes_are_named(data, dataset, tmp_path):
    path = dataset.folder / "train.tokens.npy"
    kept = path.read_bytes()
    try:
        np.save(path, np.zeros(3, np.uint8))
        with pytest.raises(UserError, match=r"train.tokens.npy is damaged: \(3,\) uint8, expected"):
            data.training_batches(dataset, FIELDS)
        path.unlink()
        with pytest.raises(UserError, match=r"train.tokens.npy is missing or damaged"):
            data.training_batches(dataset, FIELDS)
    finally:
        path.write_bytes(kept)


def test_a_packed_loss_is_the_sum_of_the_losses_alone(data, dataset, tiny_experiment):
    """Of the loss, its gradient and its divisor; documents see neither each other nor other positions."""
    packed = data.training_batches(dataset, FIELDS).rows(0)
    alone = dataclasses.replace(data, packing=OneToARow()).training_batches(dataset, FIELDS)
    wanted = [span.document for row in range(4) for span, _ in data.training_batches(dataset, ()).spans(0, row)]
    found = {}
    for n in range(15):
        made = alone.rows(n)
        for row in range(4):
            ((span, _),) = alone.spans(n, row)
            found[span.document] = {name: x[row] for name, x in made.items()}
    apart = {name: np.stack([found[document][name] for document in wanted]) for name in packed}
    assert len(wanted) > 4
    rows = len(wanted) - 4  # of padding, so that one program serves both
    packed = {name: np.pad(x, ((0, rows), (0, 0))) for name, x in packed.items()}
    assert (apart["segment_ids"].max(1) == 1).all()
    model = tiny_experiment(model__context_length=128).model
    params = init(model, jax.random.key(0))
    objective = NextToken()

    def loss(params, batch):
        return objective.loss(model, params, batch, dropout_key=None, layout=ONE_DEVICE)[0]

    step = jax.jit(jax.value_and_grad(loss))
    (one, one_grad), (other, other_grad) = step(params, packed), step(params, apart)
    assert float(objective.weight(packed)) == float(objective.weight(apart)) == packed["weights"].sum()
    np.testing.assert_allclose(one, other, rtol=2e-6)
    for x, y in zip(jax.tree.leaves(one_grad), jax.tree.leaves(other_grad), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)
    # The prompts decide nothing but what the answers see: other targets there change no loss.
    others = packed | {"targets": np.where(packed["weights"] > 0, packed["targets"], 7)}
    assert float(step(params, others)[0]) == float(one)

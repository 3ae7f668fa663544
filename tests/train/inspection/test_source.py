"""Sources: their tokens, the encoder alone against what the decoder's layers read, what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from model.errors import UserError
from model.recurrent.gru import GRU
from model.taps.request import Tap
from model.transformer import abstract_params, forward
from model.vocabulary.embedding import Tied, Untied
from tests.train.inspection.models import FAMILIES
from tests.train.inspection.sources import BOTH, RECURRENT, run_of
from train.inspection.source import encoder_of, read_source, subject_of
from train.inspection.text import read


def test_a_source_has_its_end_and_a_target_the_start_token():
    run = run_of(BOTH)
    source = read_source(run, "abc")
    assert (source.ids.tolist(), source.texts) == ([97, 98, 99, 256], ("a", "b", "c", "<end>"))
    assert (read(run, "abc").ids.tolist(), read(run, "abc").texts[0]) == ([7, 97, 98, 99], "<start>")


def test_a_long_source_keeps_its_end_and_is_said():
    run = run_of(BOTH)
    source = read_source(run, "a" * 30)
    assert source.ids.tolist() == [97] * 11 + [256]
    cut = "--source: The text has 31 tokens; of these the first 11 are read: the encoder's context holds no more."
    assert source.notes == (cut,)
    assert "of these the first 3 are read: the page shows no more." in read_source(run, "a" * 30, most=4).notes[0]


@pytest.mark.parametrize("unembedding", [Tied(), Untied()], ids=["tied", "untied"])
def test_the_encoder_alone_gives_what_the_layers_of_the_decoder_read(unembedding):
    subject, source = subject_of(run_of(dataclasses.replace(BOTH, unembedding=unembedding)), "a source")
    alone = encoder_of(subject)
    x_SD = np.asarray(forward(alone.config, alone.params, source.ids[None]).stream_BTD[0])
    key_LSNH = subject.taps(np.array([[7, 1]], np.int32), Tap("cross_key"))["cross_key"][:, 0]
    expected = np.einsum("SD,LDNH->LSNH", x_SD, subject.params["blocks"]["cross"]["key"])
    np.testing.assert_allclose(key_LSNH, expected, atol=2e-6)
    assert jax.tree.structure(alone.params) == jax.tree.structure(abstract_params(alone.config))
    one_way = dataclasses.replace(RECURRENT, encoder=dataclasses.replace(RECURRENT.encoder, mixer=GRU()))
    for recurrent in (RECURRENT, one_way):
        assert encoder_of(subject_of(run_of(recurrent), "a source")[0]) is None


def test_the_source_changes_the_text_that_reads_it():
    tokens = np.array([[7, 1, 2]], np.int32)
    taps = [subject_of(run_of(BOTH), text)[0].taps(tokens, Tap("final_norm"))["final_norm"] for text in ("one", "two")]
    assert np.abs(taps[0] - taps[1]).max() > 0.01


def test_what_is_missing_and_what_is_too_much_is_refused():
    with pytest.raises(UserError, match="--source is missing: the model of runs/both has an encoder"):
        subject_of(run_of(BOTH), None)
    plain = dataclasses.replace(FAMILIES["llama"], vocab_size=257)
    with pytest.raises(UserError, match="--source: the model of runs/both has no encoder to read it; leave it out"):
        subject_of(run_of(plain), "text")
    assert subject_of(run_of(plain), None)[1] is None
    with pytest.raises(UserError, match="--source: the text has 0 tokens"):
        subject_of(run_of(BOTH), "")

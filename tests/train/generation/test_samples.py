"""Samples of a run: they follow its options, never change, and bad prompts are refused before training."""

import jax
import pytest

from model.errors import UserError
from model.inference.sampling import Sampling
from model.transformer import init
from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.generation.samples import draw_samples
from train.generation.texts import generate_texts
from train.loop import train

BYTES = BytesTokenizer(Bytes())


def test_samples_are_prompts_and_their_generated_texts(tiny_experiment):
    experiment = tiny_experiment(samples__length=6, samples__temperature=0.7, samples__top_p=0.8)
    params = jax.jit(init, static_argnums=0)(experiment.model, jax.random.key(0))
    samples = draw_samples(experiment, params, ("the ", "", "the "), tokenizer=BYTES, seed=3)
    sampling = Sampling(max_tokens=6, temperature=0.7, top_p=0.8, seed=3)
    expected = generate_texts(experiment.model, params, BYTES, ("the ", "", "the "), sampling)
    for sample, prompt, new in zip(samples, ("the ", "", "the "), expected, strict=True):
        assert sample.text == prompt + new.text
        assert sample.ended == (new.ended_by == "end_of_document")
    assert samples[0] != samples[2]
    assert draw_samples(experiment, params, ("the ", "", "the "), tokenizer=BYTES, seed=3) == samples
    assert draw_samples(experiment, params, ("the ", "", "the "), tokenizer=BYTES, seed=4) != samples
    assert draw_samples(experiment, params, (), tokenizer=BYTES, seed=3) == []


def test_a_prompt_longer_than_the_context_is_refused_before_the_first_step(tiny_experiment, tmp_path):
    experiment = tiny_experiment(samples__prompts=("fits", "x" * 40))
    with pytest.raises(UserError, match="prompt 2 has 41 tokens.*context of 32; shorten it by 9 tokens"):
        train(experiment, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

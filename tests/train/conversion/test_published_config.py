import dataclasses
import json

import jax
import numpy as np
import pytest

from model.config import model_differences
from model.errors import UserError
from model.families import model_config
from model.families.sizes import SIZES
from model.feedforward.balance import BalanceLoss, LoadBias
from model.norms import RMSNorm
from model.parameters.names import flatten
from tests.tiers import SWEEP
from tests.train.conversion.folders import FIXTURES, trained_here, values_of
from train.conversion.folder import INDEX
from train.conversion.published_config import config_like
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.run.loading import load_params


def test_a_run_that_was_trained_here_as_a_family_or_not(tmp_path, tiny_run, monkeypatch):
    with pytest.raises(UserError, match=r"describe its config.json: with --like=.*; or with --family, .* for: llama$"):
        write_published(tiny_run, tmp_path / "out")
    monkeypatch.setattr("train.conversion.writing.MAX_FILE_BYTES", 30_000)
    write_published(tiny_run, tmp_path / "out", family="llama")
    assert (tmp_path / "out" / INDEX).is_file()
    read_published(tmp_path / "out", tmp_path / "run")
    before, after = load_params(tiny_run), load_params(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    with pytest.raises(UserError, match="--family=mixtral, but .* was read from the family llama"):
        write_published(tmp_path / "run", tmp_path / "other", family="mixtral")
    with pytest.raises(UserError, match=r"--like=llama-2-7b, but .* has the config.json that it was read with"):
        write_published(tmp_path / "run", tmp_path / "other", like="llama-2-7b")
    with pytest.raises(
        UserError, match=r"--family=qwen3: .* made from a model for llama alone; for qwen3 give --like="
    ):
        write_published(tiny_run, tmp_path / "other", family="qwen3")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("family", "stored_as", "length"),
    [
        pytest.param("bloom", "float32", "seq_length", marks=SWEEP),
        # and its load biases as float32
        pytest.param("deepseek_v3", "bfloat16", "max_position_embeddings", marks=SWEEP),
        pytest.param("gemma3", "float32", "max_position_embeddings", marks=SWEEP),
        pytest.param("gpt2", "bfloat16", "n_positions", marks=SWEEP),
        pytest.param("gpt_oss", "float32", "max_position_embeddings", marks=SWEEP),
    ],
)
def test_a_run_that_was_trained_here_like_a_config_json(family, stored_as, length, tmp_path):
    config, params = trained_here(tmp_path / "run", family, stored_as)
    own = write_published(tmp_path / "run", tmp_path / "out", like=str(FIXTURES / family / "0" / "config.json"))
    assert own == {"vocab_size": 257, length: 32}
    written, given = json.loads((tmp_path / "out" / "config.json").read_text()), values_of(family)
    of_files = {"torch_dtype": stored_as, "bos_token_id": 256, "eos_token_id": 256}
    gone = {"dtype", "pad_token_id", "transformers_version"}
    assert written == {k: v for k, v in given.items() if k not in gone} | own | of_files
    read_published(tmp_path / "out", tmp_path / "back")
    back = load_params(tmp_path / "back")
    assert model_differences(back.experiment.model, config) == []
    assert back.experiment.model.precision == config.precision
    for name, x in flatten(params).items():
        assert flatten(back.params)[name].dtype == x.dtype
        np.testing.assert_array_equal(flatten(back.params)[name], x)


def test_another_model_than_the_one_described_is_refused_field_by_field(tmp_path):
    trained_here(tmp_path / "run", "llama", num_layers=5, norm=RMSNorm(epsilon=1e-3))
    with pytest.raises(UserError) as error:
        write_published(tmp_path / "run", tmp_path / "out", like=str(FIXTURES / "llama" / "0"))
    about = values_of("llama")
    assert str(error.value).splitlines() == [
        f"the model of {tmp_path}/run is not the one that --like={FIXTURES}/llama/0 describes (its value -> this run's):",
        f"  model.norm.epsilon: {about['rms_norm_eps']} -> 0.001",
        f"  model.num_layers: {about['num_hidden_layers']} -> 5",
        "Give a config.json with this run's values; vocab_size and context_length may differ: the run's are written",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_published_model_by_name(tmp_path, monkeypatch):
    trained_here(tmp_path / "run", "llama")
    monkeypatch.setitem(SIZES, "llama-tiny", values_of("llama"))
    write_published(tmp_path / "run", tmp_path / "out", like="llama-tiny")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    with pytest.raises(UserError, match="--like=lama-tiny is no config.json, .* did you mean 'llama-tiny'?"):
        write_published(tmp_path / "run", tmp_path / "other", like="lama-tiny")
    monkeypatch.setitem(SIZES, "of-a-paper", model_config(values_of("llama")))
    with pytest.raises(UserError, match="--like=of-a-paper is known from its paper, .*; give a file"):
        write_published(tmp_path / "run", tmp_path / "other", like="of-a-paper")
    with pytest.raises(UserError, match="--like=models/llama is no config.json, no folder with one, .* name$"):
        write_published(tmp_path / "run", tmp_path / "other", like="models/llama")


def balanced(ffn, **changes):
    bias = LoadBias(rate=0.01) if ffn.load_bias else None
    loss = BalanceLoss(coefficient=0.01)
    return dataclasses.replace(ffn, balance_loss=loss, router_z_loss=0.001, load_bias=bias, **changes)


def test_what_balances_experts_while_training_is_in_no_config_json(tmp_path):
    config = model_config(values_of("mixtral"))
    trained = dataclasses.replace(config, ffn=balanced(config.ffn))
    assert config_like(str(FIXTURES / "mixtral" / "0"), trained, tmp_path)[2] == {}
    config = model_config(values_of("deepseek_v3"))
    (layers,) = config.exceptions
    trained = dataclasses.replace(config, exceptions=(dataclasses.replace(layers, ffn=balanced(layers.ffn)),))
    assert config_like(str(FIXTURES / "deepseek_v3" / "0"), trained, tmp_path)[2] == {}
    changed = dataclasses.replace(layers, ffn=balanced(layers.ffn, top_k=3))
    with pytest.raises(UserError, match=r"model.exceptions: .*'top_k': 2.* -> .*'top_k': 3"):
        config_like(str(FIXTURES / "deepseek_v3" / "0"), dataclasses.replace(config, exceptions=(changed,)), tmp_path)

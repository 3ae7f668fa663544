"""Hugging Face folders to run folders and back, on the recorded models of tests/fixtures/families."""

import dataclasses
import json
import pathlib
import re
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from model.config import differences_of_models
from model.errors import UserError
from model.families import config_of, family_named, family_of
from model.families.sizes import SIZES
from model.feedforward.balance import BalanceLoss, LoadBias
from model.feedforward.mlp import Gated
from model.norms import RMSNorm
from model.precision import Precision
from model.transformer import abstract_params, forward
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore, flat
from train.conversion import reading, writing
from train.conversion.describing import values_like
from train.conversion.folder import INDEX, Folder
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.data.config import Bytes, TokenizerOf
from train.loop import train
from train.parallel.mesh import Mesh, make_mesh
from train.run.loaded import load_params, load_run
from train.schedules import Constant

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "families"
# Names of several prefixes, parts joined in every way, experts one by one and together; tests/model/families/test_families.py has
# the tensors of all families.
FOLDERS = [FIXTURES / name / "0" for name in ("bloom", "deepseek_v3", "falcon", "gpt2", "gpt_neox", "gpt_oss", "llama")]
FOLDERS += [FIXTURES / "qwen2_moe" / "0"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def published(tmp_path, family="llama", number=0, **config):
    """A folder as on the Hub: weights, config, and a tokenizer whose vocabulary is smaller than the model's."""
    folder = tmp_path / "published"
    shutil.copytree(FIXTURES / family / str(number), folder)
    (folder / "expected.npz").unlink()
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"eos_token_id": 1, "bos_token_id": 0} | config))
    words = {word: i for i, word in enumerate(["<s>", "</s>", "[UNK]", *"abcdefghij"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "README.md").write_text("A model.\n")
    return folder


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_there_and_back_to_the_byte(folder, tmp_path):
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert experiments.load(tmp_path / "run").model.precision == Precision(parameters="bfloat16", compute="bfloat16")


def test_files_with_an_index_of_any_order_and_dtype(tmp_path):
    folder = published(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    names = sorted(tensors, reverse=True)
    save_file({name: tensors[name] for name in names[:5]}, folder / "b.safetensors", metadata={"odd": "yes"})
    save_file({name: tensors[name] for name in names[5:]}, folder / "a.safetensors")
    weight_map = {name: "b.safetensors" if name in names[:5] else "a.safetensors" for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    read_published(folder, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert loaded.experiment.model.precision.parameters == "float32"
    np.testing.assert_array_equal(loaded.params["final_norm"]["scale"], tensors["model.norm.weight"])
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_a_run_folder_like_any_other(tmp_path):
    folder = published(tmp_path)
    read_published(folder, tmp_path / "run", stored_as="float32", context_length=64)
    run = load_run(tmp_path / "run")
    assert run.step == 0
    assert run.tokenizer.vocab_size == run.experiment.model.vocab_size == 64
    assert (run.tokenizer.begin_of_document, run.tokenizer.end_of_document) == (0, 1)
    assert run.tokenizer.decode([3, 63, 4]) == "a b"
    assert run.experiment.model.context_length == 64
    expected = np.load(FIXTURES / "llama" / "0" / "expected.npz")
    logits = forward(run.experiment.model, run.params, expected["tokens"]).logits_BTV
    assert np.abs(logits - expected["logits"]).max() < 1e-4 * expected["logits"].std()
    with pytest.raises(UserError, match="it has a tokenizer and no text"):
        run.dataset().split("validation")


@pytest.mark.parametrize("direction", ["Left", "Right"])
def test_a_tokenizer_with_settings_for_batches_converts_as_without(tmp_path, direction):
    folder = published(tmp_path)
    about = json.loads((folder / "tokenizer.json").read_text())
    truncation = {"direction": direction, "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 8},
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "[UNK]",
    }
    about |= {"truncation": truncation, "padding": padding | {"direction": direction}}
    (folder / "tokenizer.json").write_text(json.dumps(about))
    read_published(folder, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert (run.tokenizer.begin_of_document, run.tokenizer.end_of_document) == (0, 1)
    assert run.tokenizer.encode("a b c").tolist() == [3, 4, 5]
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_tensors_that_do_not_fit_are_all_named_and_nothing_is_left(tmp_path):
    folder = published(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.ones(17, ml_dtypes.bfloat16)
    tensors["model.norm.bias"] = np.ones(16, ml_dtypes.bfloat16)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.int32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        read_published(folder, tmp_path / "run")
    for line in (
        "4 problems",
        "model.layers.1.mlp.up_proj.weight is missing, expected 24x16",
        "model.norm.weight is 17, expected 16",
        "model.norm.bias 16 is no tensor of such a model",
        "lm_head.weight is I32, expected BF16, F16 or F32",
    ):
        assert line in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_tied_weights_that_differ_are_refused(tmp_path):
    folder = published(tmp_path, number=2)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    read_published(folder, tmp_path / "run")
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    tensors["lm_head.weight"] = -tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head.weight is tied to another tensor by config.json, and differs"):
        read_published(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_folders_that_are_none(tmp_path):
    folder = published(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin: pickle files, which can run any code"):
        read_published(folder, tmp_path / "run")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no \*.safetensors file"):
        read_published(folder, tmp_path / "run")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "model-1.safetensors"}}))
    with pytest.raises(UserError, match=r"lacks files that its .* names: model-1.safetensors"):
        read_published(folder, tmp_path / "run")
    (folder / "model-1.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(UserError, match="no safetensors file, or a damaged one"):
        read_published(folder, tmp_path / "run")
    (folder / "model-1.safetensors").unlink()
    (folder / "model-1.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot read .*model-1.safetensors: "):
        read_published(folder, tmp_path / "run")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="it has no config.json"):
        read_published(folder, tmp_path / "run")


def test_what_is_interrupted_leaves_no_run(tmp_path, monkeypatch):
    folder = published(tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_published(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    monkeypatch.undo()
    read_published(folder, tmp_path / "run")
    with pytest.raises(UserError, match="exists already"):
        read_published(folder, tmp_path / "run")
    with pytest.raises(UserError, match="exists already"):
        write_published(tmp_path / "run", folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slice_is_written_into_its_stack_in_place(dtype):
    stack, piece = np.zeros((4, 8, 16), dtype), np.ones(16, dtype)
    put = reading._put(jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    assert put.lower(stack, piece, (2, 5)).compile().memory_analysis().temp_size_in_bytes < stack.nbytes / 4
    written = np.asarray(put(jax.device_put(stack), piece, (2, 5)))
    assert written[2, 5].all()
    assert written.sum() == 16


@pytest.mark.parametrize(
    ("mesh", "recorded"),
    [
        (None, Mesh(fsdp=8)),
        (Mesh(data=2, fsdp=4), Mesh(data=2, fsdp=4)),
        (Mesh(fsdp=2, tensor=2), Mesh(fsdp=2, tensor=2)),
    ],
)
def test_on_a_mesh_each_device_has_its_shards_there_and_back(mesh, recorded, tmp_path):
    folder = published(tmp_path)
    read_published(folder, tmp_path / "run", mesh=mesh)
    assert experiments.load(tmp_path / "run").mesh == recorded
    params = load_params(tmp_path / "run").params
    query = params["blocks"]["mixer"]["query"]
    assert query.sharding.shard_shape(query.shape)[1] == query.shape[1] // recorded.fsdp
    assert query.sharding.shard_shape(query.shape)[2] == query.shape[2] // recorded.tensor
    write_published(tmp_path / "run", tmp_path / "back", mesh=mesh)
    assert contents(tmp_path / "back") == contents(folder)


def test_on_the_host_there_is_a_tensor_at_a_time_and_on_a_device_its_shards(tmp_path, monkeypatch):
    """Weights of 13 MiB in tensors of at most 1 MiB, read and written on eight devices."""
    trained_here(tmp_path / "own", "llama", num_layers=12, width=256, ffn=Gated(width=1024))
    largest, total = 1 << 20, 12 * 4 * (4 * 256 * 256 + 3 * 256 * 1024)
    held = []
    plain = reading._shards

    def shards(piece, dtype, where):
        made = plain(piece, dtype, where)
        held.append(max(s.data.nbytes for s in made.addressable_shards) * 8 / piece.nbytes)
        return made

    monkeypatch.setattr(reading, "_shards", shards)
    write_published(tmp_path / "own", tmp_path / "out", family="llama")  # once for what is imported and compiled
    read_published(tmp_path / "out", tmp_path / "run")
    assert sorted(set(held)) == [1.0]  # no device holds more than an eighth of a tensor, norms included
    folder = Folder(tmp_path / "out")
    family = family_of(folder.config)
    experiment = experiments.load(tmp_path / "run")
    names = reading.published_names(family, experiment.model, folder)
    tracemalloc.start()
    try:
        params = reading.read_params(folder, family, experiment.model, names, experiment)
        jax.block_until_ready(params)
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        headers = folder.headers
        (tmp_path / "again").mkdir()
        writing._write(family, experiment.model, params, headers, {}, tmp_path / "again")
        written = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert total > 36 * largest
    assert read < 3 * largest
    assert written < 4 * largest  # the slice, the tensor, and the bytes of it
    assert contents(tmp_path / "again")["model.safetensors"] == contents(tmp_path / "out")["model.safetensors"]


def test_a_slice_is_written_into_a_stack_without_a_word_between_devices():
    mesh = make_mesh(Mesh(fsdp=4, tensor=2))
    where = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    stack = jax.device_put(jnp.zeros((3, 8, 4), jnp.bfloat16), where)
    piece = reading._shards(np.arange(32.0).reshape(8, 4), jnp.bfloat16, where)
    put = reading._put(where)
    program = put.lower(stack, piece, (1,)).compile().as_text()
    assert not re.search("all-gather|all-to-all|all-reduce|collective-permute", program)
    np.testing.assert_array_equal(put(stack, piece, (1,))[1], np.arange(32.0).reshape(8, 4))


def test_fine_tuning_starts_from_the_weights_and_can_be_published(tmp_path, tiny_experiment):
    folder = published(tmp_path)
    read_published(folder, tmp_path / "run")
    start = load_params(tmp_path / "run")
    experiment = tiny_experiment(
        model=dataclasses.replace(start.experiment.model, precision=Precision()),
        data__tokenizer=TokenizerOf(path=str(tmp_path / "run" / "data")),
        training__num_steps=2,
        training__init_from=str(tmp_path / "run"),
        schedule=Constant(peak=1e-6),
    )
    train(experiment, tmp_path / "tuned", say=lambda _: None)
    tuned = load_params(tmp_path / "tuned").params
    for a, b in zip(jax.tree.leaves(tuned), jax.tree.leaves(start.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b.astype(np.float32), atol=1e-4)
    write_published(tmp_path / "tuned", tmp_path / "out")
    assert contents(tmp_path / "out").keys() == contents(folder).keys()
    other = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, final_logit_softcap=9.0))
    with pytest.raises(UserError, match=r"model.final_logit_softcap: None -> 9.0"):
        train(other, tmp_path / "another", say=lambda _: None)


def test_a_run_that_was_trained_here_as_a_family_or_not(tmp_path, tiny_run, monkeypatch):
    with pytest.raises(UserError, match=r"config.json it is to have: with --like=.*; or with --family, .* for: llama$"):
        write_published(tiny_run, tmp_path / "out")
    monkeypatch.setattr("train.conversion.writing.LARGEST_FILE", 30_000)
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


def values_of(family):
    return json.loads((FIXTURES / family / "0" / "config.json").read_text())


def trained_here(run, family, stored_as="float32", **changes):
    """A run of a family's model with parameters of its own, a vocabulary of bytes and a short context."""
    config = config_of(values_of(family))
    precision = Precision(parameters=stored_as, compute=stored_as)
    config = dataclasses.replace(config, vocab_size=257, context_length=32, precision=precision, **changes)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), abstract_params(config))
    experiment = reading._experiment(config, run, Bytes())
    run.mkdir()
    experiments.save(experiment, run)
    reading._write_tokenizer(Bytes(), run / "data")
    with CheckpointStore(run, experiment.checkpoints) as store:
        store.save(experiment, reading._state(experiment, params), 0, None)
    return config, params


@pytest.mark.parametrize(
    ("family", "stored_as", "length"),
    [
        ("bloom", "float32", "seq_length"),
        ("deepseek_v3", "bfloat16", "max_position_embeddings"),  # and its load biases as float32
        ("gemma3", "float32", "max_position_embeddings"),
        ("gpt2", "bfloat16", "n_positions"),
        ("gpt_oss", "float32", "max_position_embeddings"),
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
    assert differences_of_models(back.experiment.model, config) == []
    assert back.experiment.model.precision == config.precision
    for name, x in flat(params).items():
        assert flat(back.params)[name].dtype == x.dtype
        np.testing.assert_array_equal(flat(back.params)[name], x)


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
    monkeypatch.setitem(SIZES, "of-a-paper", config_of(values_of("llama")))
    with pytest.raises(UserError, match="--like=of-a-paper is known from its paper, .*; give a file"):
        write_published(tmp_path / "run", tmp_path / "other", like="of-a-paper")
    with pytest.raises(UserError, match="--like=models/llama is no config.json, no folder with one, .* name$"):
        write_published(tmp_path / "run", tmp_path / "other", like="models/llama")


def balanced(ffn, **changes):
    bias = LoadBias(rate=0.01) if ffn.load_bias else None
    loss = BalanceLoss(coefficient=0.01)
    return dataclasses.replace(ffn, balance_loss=loss, router_z_loss=0.001, load_bias=bias, **changes)


def test_what_balances_experts_while_training_is_in_no_config_json(tmp_path):
    config = config_of(values_of("mixtral"))
    trained = dataclasses.replace(config, ffn=balanced(config.ffn))
    assert values_like(str(FIXTURES / "mixtral" / "0"), trained, tmp_path)[2] == {}
    config = config_of(values_of("deepseek_v3"))
    (layers,) = config.exceptions
    trained = dataclasses.replace(config, exceptions=(dataclasses.replace(layers, ffn=balanced(layers.ffn)),))
    assert values_like(str(FIXTURES / "deepseek_v3" / "0"), trained, tmp_path)[2] == {}
    changed = dataclasses.replace(layers, ffn=balanced(layers.ffn, top_k=3))
    with pytest.raises(UserError, match=r"model.exceptions: .*'top_k': 2.* -> .*'top_k': 3"):
        values_like(str(FIXTURES / "deepseek_v3" / "0"), dataclasses.replace(config, exceptions=(changed,)), tmp_path)


def test_a_model_that_a_family_does_not_have(tmp_path, tiny_experiment):
    config = tiny_experiment(model__final_logit_softcap=9.0, model__position="NoPositions()").model
    with pytest.raises(UserError, match="the family llama has no such model") as error:
        family_named("llama").published(config)
    assert "model.final_logit_softcap: 9.0 -> None" in str(error.value)
    assert "model.position: NoPositions() -> Rotary" in str(error.value)


def test_without_a_tokenizer_it_says_where_to_put_one(tmp_path):
    read_published(FIXTURES / "llama" / "0", tmp_path / "run")
    with pytest.raises(
        UserError, match=r"without tokenizer.json or tokenizer.model, .* put it there, delete the run and"
    ):
        load_run(tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/below: .*; name another one"):
        read_published(FIXTURES / "llama" / "0", tmp_path / "file" / "below")

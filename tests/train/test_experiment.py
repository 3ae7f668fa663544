import json

import pytest

from model.errors import UserError
from model.options.json import to_json
from model.options.tree import check
from tests.train.config_files import refusal
from train.experiment import load, save
from train.parallel.table import ActivationAxes, ParameterAxes


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["data.sequence_length=512"], "data.sequence_length: 512 is longer than model.context_length=256"),
        (["training.gradient_accumulation=3"], "data.batch_size: 8 does not split into gradient_accumulation=3 parts"),
        (
            ["schedule.warmup_steps=21"],
            "training.num_steps: 20 steps are too few for schedule.warmup_steps=21; shorten",
        ),
        (
            ["schedule=WarmupStableDecay(peak=1e-3, warmup_steps=5, decay_steps=16)"],
            "20 steps are too few for schedule.warmup_steps=5 + schedule.decay_steps=16; shorten",
        ),
        (
            ["data.tokenizer=SentencePiece(vocab_size=512)"],
            "data.tokenizer.vocab_size: 512, but model.vocab_size=4096; set both to the same number",
        ),
        (["model.mixer.num_kv_heads=3"], "model.mixer.num_kv_heads: 3 does not divide num_heads=4; use one of"),
        (["model.mixer.num_heads=5"], "model.mixer.num_heads: 5 heads do not divide width=32"),
        (
            ["model.width=36"],
            "model.position: Rotary rotates pairs of dimensions, so the head width must be even, got 9",
        ),
        (["training.num_steps=0"], "training.num_steps: must be at least 1, got 0"),
        (["training.seed=-1"], "training.seed: must be from 0 to 2^32 - 1, got -1"),
        (["training.clip_norm=0.0"], "training.clip_norm: must be above 0, or None for no clipping, got 0.0"),
        (["objective.z_loss=-1.0"], "objective.z_loss: must be 0 or more"),
        (["evaluation.every=0"], "evaluation.every: must be at least 1, got 0"),
        (["checkpoints.keep_last=0"], "checkpoints.keep_last: must be at least 1, got 0"),
        (["checkpoints.keep_best=-1"], "checkpoints.keep_best: must be 0 or more, got -1"),
        (["logging.every=0"], "logging.every: must be at least 1, got 0"),
        (["samples.temperature=-1.0"], "samples.temperature: must be 0 (greedy) or more"),
        (["samples.top_p=0.0"], "samples.top_p: must be above 0 and at most 1"),
        (["samples.length=0"], "samples.length: must be at least 1"),
        (["samples.length=4096", "samples.prompts=('a',)"], "samples.length: 4096 leaves a prompt no room"),
        (["mesh.fsdp=0"], "mesh.fsdp: must be at least 1, got 0"),
        (
            ["sharding.activations.ffn=('modl',)"],
            "sharding.activations.ffn: 'modl' is no mesh axis; known: stage, data, fsdp, expert, context, tensor",
        ),
    ],
)
def test_values_that_clash_are_refused(sets, words, config):
    assert words in refusal(config(), sets)


def test_all_problems_come_at_once(config):
    text = refusal(config(), ["evaluation.every=0", "model.mixer.num_heads=5", "schedule.peak=0.0"])
    assert "this config has 3 problems:" in text
    assert len(text.splitlines()) == 4


def test_the_length_of_samples_without_prompts_clashes_with_nothing(tiny_experiment):
    check(tiny_experiment(samples__prompts=(), samples__length=4096))


def test_saved_and_loaded_it_is_the_same(tiny_experiment, tmp_path):
    for changes in ({}, {"schedule": "WarmupStableDecay(peak=0.1, decay_steps=3)", "samples__prompts": ("a", "b\n")}):
        save(tiny_experiment(**changes), tmp_path)
        assert load(tmp_path) == tiny_experiment(**changes)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_run_of_a_table_with_one_vocabulary_is_read(tiny_experiment, tmp_path):
    tree = to_json(tiny_experiment())
    former = {"batch": ["data", "fsdp"], "embed": ["fsdp"], "heads": ["tensor"], "vocab": []}
    tree["sharding"] = {"type": "Sharding"} | former
    (tmp_path / "config.json").write_text(json.dumps(tree))
    table = load(tmp_path).sharding
    assert table.parameters == ParameterAxes(vocab=(), embed=("fsdp",))
    assert table.activations == ActivationAxes(vocab=(), embed=("fsdp",), batch=("data", "fsdp"))


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is no run folder: it has no config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda tree: tree["model"].update(num_layer=3),
            "model.num_layer: ModelConfig has no such field; did you mean",
        ),
        (lambda tree: tree["model"].pop("width"), "model: ModelConfig needs a value for width"),
        (
            lambda tree: tree["optimizer"].update(type="Adam"),
            "optimizer: no option 'Adam' fits here; did you mean 'AdamW'",
        ),
        (lambda tree: tree["data"].update(batch_size="8"), "data.batch_size: expected int, got '8' (str)"),
    ],
)
def test_a_stored_config_that_does_not_fit_the_code_is_named(change, words, tiny_experiment, tmp_path):
    tree = to_json(tiny_experiment())
    change(tree)
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"type": "Experi', b"\xff\xfe{}", b"[]", b"3", b"null"])
def test_a_damaged_config_is_named(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is damaged: expected .* got .*; put a copy of it back"):
        load(tmp_path)

import json

import pytest

from model.errors import UserError
from model.options import to_json
from train.experiment import from_file, load, save
from train.parallel.table import ActivationAxes, ParameterAxes

CONFIG = """
from model.attention.grouped_query import GroupedQuery
from model.config import ModelConfig
from model.feedforward.mlp import Gated
from train.data.config import Data
from train.experiment import Experiment, Training
from train.optimizers.options import AdamW
from train.schedules import Cosine

experiment = Experiment(
    model=ModelConfig(
        vocab_size=4096, context_length=256, num_layers=2, width=32, mixer=GroupedQuery(num_heads=4), ffn=Gated(width=64)
    ),
    data=Data(batch_size=8),
    training=Training(num_steps=20),
    optimizer=AdamW(),
    schedule=Cosine(peak=1e-3),
)
"""


@pytest.fixture
def config(tmp_path):
    """A function that writes the config, with one piece of its text replaced."""

    def write(old="", new=""):
        assert old in CONFIG
        path = tmp_path / "config.py"
        path.write_text(CONFIG.replace(old, new, 1) if old else CONFIG)
        return str(path)

    return write


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        from_file(*arguments)
    return str(caught.value)


def test_a_config_file_is_python_that_assigns_experiment(config):
    experiment = from_file(config())
    assert (experiment.model.width, experiment.training.num_steps) == (32, 20)


def test_overrides_apply_in_order(config):
    sets = [
        "model.num_layers=3",
        "model.num_layers=5",
        "optimizer=Lion(b1=0.8)",
        "optimizer.b2=0.5",
        "data.path=a/b.txt",
    ]
    experiment = from_file(config(), sets)
    assert experiment.model.num_layers == 5
    assert (experiment.optimizer.b1, experiment.optimizer.b2) == (0.8, 0.5)
    assert experiment.data.path == "a/b.txt"


def test_no_such_file_names_the_nearest(config, tmp_path):
    config()
    text = refusal(str(tmp_path / "confg.py"))
    assert f"no config file at {tmp_path / 'confg.py'}; did you mean '{tmp_path / 'config.py'}'?" in text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num_layers=2", "num_layer=2", ["line 11", "'num_layer'", "did you mean 'num_layers'?"]),
        ("num_heads=4", "num_head=4", ["line 12", "'num_head'", "did you mean 'num_heads'?"]),
        ("peak=1e-3", "peek=1e-3", ["'peek'", "did you mean 'peak'?"]),
        ("num_steps=20", "", ["line 15", "missing 1 required", "'num_steps'"]),
        ("AdamW()", "AdamV()", ["line 16", "NameError", "AdamV"]),
        ("import AdamW", "import AdamV", ["line 7", "ImportError", "AdamV"]),
        ("from train.optimizers.options", "from train.optimisers", ["line 7", "train.optimisers"]),
        ("peak=1e-3", "peak=", ["config.py, line 17", "SyntaxError"]),
        ("Training(num_steps=20)", "Training(20)", ["line 15", "TypeError"]),
        ("num_steps=20", "num_steps=20 // 0", ["line 15", "ZeroDivisionError"]),
        ("experiment = ", "assert not AdamW\nexperiment = ", ["line 10", "AssertionError"]),
        ("experiment = ", "import copy\ncopy.replace_all()\nexperiment = ", ["config.py, line 11", "AttributeError"]),
        ("experiment = ", "import json\njson.loads('{')\nexperiment = ", ["config.py, line 11", "JSONDecodeError"]),
    ],
)
def test_a_slip_in_the_file_is_named_with_its_line(old, new, words, config):
    text = refusal(config(old, new))
    assert "config.py" in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num_steps=20", "num_steps='20'", ["training.num_steps: expected int, got '20' (str)"]),
        ("batch_size=8", "batch_size=8.0", ["data.batch_size: expected int, got 8.0 (float)"]),
        ("AdamW()", "Cosine(peak=1.0)", ["optimizer: expected AdamW(...) or", "got Cosine("]),
        ("data=Data", "mesh=3, data=Data", ["mesh: expected Mesh(...), got 3 (int)"]),
    ],
)
def test_a_value_of_the_wrong_type_in_the_file_is_named_with_its_field(old, new, words, config):
    text = refusal(config(old, new))
    for word in words:
        assert word in text, text


def test_a_file_without_an_experiment(config):
    assert "defines no `experiment = Experiment(...)`, got NoneType" in refusal(config("experiment = ", "other = "))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("model.num_layer=3", "ModelConfig has no field 'num_layer'; did you mean 'num_layers'?"),
        ("modl.num_layers=3", "Experiment has no field 'modl'; did you mean 'model'?"),
        ("model.num_layers=three", "expected int, got 'three' (str)"),
        ("model.num_layers=2.5", "expected int, got '2.5' (float)"),
        ("training.clip_norm=True", "expected float or None, got 'True' (bool)"),
        ("model.norm=BatchNorm()", "no option 'BatchNorm' fits here"),
        ("model.norm=LayerNorm(eps=1)", "LayerNorm has no field 'eps'; did you mean 'epsilon'?"),
        ("model.width", "expected path.to.field=value"),
        ("model.width.more=3", "int 32 has no fields"),
    ],
)
def test_an_override_that_does_not_fit(assignment, words, config):
    assert words in refusal(config(), [assignment])


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
        (["mesh.fsdp=0"], "mesh.fsdp: must be at least 1, got 0"),
        (
            ["sharding.activations.ffn=('modl',)"],
            "sharding.activations.ffn: 'modl' is no mesh axis; known: data, fsdp, tensor",
        ),
    ],
)
def test_values_that_clash_are_refused(sets, words, config):
    assert words in refusal(config(), sets)


def test_all_problems_come_at_once(config):
    text = refusal(config(), ["evaluation.every=0", "model.mixer.num_heads=5", "schedule.peak=0.0"])
    assert "this config has 3 problems:" in text
    assert len(text.splitlines()) == 4


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
    assert table.parameters == ParameterAxes(vocab=())
    assert table.activations == ActivationAxes(vocab=(), embed=("fsdp",))


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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (\n", "odd.py, line 1: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit(0)\n", "odd.py, line 2: the config ends Python (SystemExit(0))"),
        ("def f():\n    return f()\nf()\n", "odd.py, line 2: RecursionError: maximum recursion depth exceeded"),
        (
            "class E(Exception):\n    def __str__(self): return 5\n\nraise E\n",
            "odd.py, line 4: E: <exception str() failed>",
        ),
        ("raise GeneratorExit\n", "odd.py, line 1: GeneratorExit"),
        ("e = KeyError('a')\ne.add_note('b')\nraise e\n", "odd.py, line 3: KeyError: 'a'"),
        (b"x = 'caf\xe9'\n", "odd.py, line 1: SyntaxError: (unicode error) 'utf-8' codec"),
        (b"x = 1\0\n", "null bytes"),
        ("experiment = 5\n", "odd.py defines no `experiment = Experiment(...)`, got int"),
        (CONFIG.replace("Training(num_steps=20)", "Training"), "training: expected Training(...), got <class"),
        (CONFIG.replace("peak=1e-3", "peak=float('nan')"), "schedule.peak: expected a finite number"),
        (CONFIG.replace("Data(", "Data(path='a\\0b', "), "data.path='a\\x00b' holds a NUL"),
        (CONFIG.replace("num_steps=20", "num_steps=20, init_from=''"), "training.init_from= is empty"),
        (CONFIG.replace("Data(", "Data(prefetch=2**31, "), "data.prefetch: expected at most 1,000, got 2,147,483,648"),
        (CONFIG.replace("batch_size=8", "batch_size=2**31"), "make one batch of more than 268,435,456 tokens"),
        (
            CONFIG.replace("num_layers=2", "num_layers=2**31"),
            "model.num_layers: must be at most 10,000, got 2,147,483,648",
        ),
    ],
)
def test_whatever_a_config_does_is_one_error_with_its_place(source, message, tmp_path):
    path = tmp_path / "odd.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    assert message in refusal(str(path))


def test_a_config_that_prints_is_read(config, capsys):
    assert (
        from_file(
            config("experiment =", "print('caf\u00e9 \\ud800'.encode(errors='replace'))\nexperiment =")
        ).data.batch_size
        == 8
    )
    assert "caf" in capsys.readouterr().out

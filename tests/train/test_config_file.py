import dataclasses
import importlib
import typing

import pytest

from model.errors import UserError
from model.options.annotations import alternatives, fields_of
from model.options.assignments import override
from model.parameters.adapters import LoRA
from tests.train.config_files import CONFIG, refusal
from train.config_file import all_option_classes, from_file
from train.earlier import MOVED_MODULES
from train.experiment import Experiment, save


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


def test_the_model_of_a_run_and_its_parameters(config, tmp_path, tiny_experiment):
    run = tmp_path / "run"
    run.mkdir()
    save(tiny_experiment(), run)
    fits = ["data.sequence_length=16", "samples.length=8", "data.tokenizer=Bytes()", "training.num_steps=30"]
    experiment = from_file(config(), fits, init_from=str(run))
    assert experiment.model == tiny_experiment().model != from_file(config()).model
    assert (experiment.training.init_from, experiment.training.num_steps) == (str(run), 30)
    with pytest.raises(UserError, match="is no run folder"):
        from_file(config(), init_from=str(tmp_path / "none"))


def test_parts_that_a_config_adds_to_the_model_of_a_run_stay(config, tmp_path, tiny_experiment):
    run = tmp_path / "run"
    run.mkdir()
    fits = ["data.sequence_length=16", "samples.length=8", "data.tokenizer=Bytes()"]
    adds = CONFIG.replace("width=32,", "width=32, adapters=LoRA(rank=2),").replace(
        "\n\n", "\nfrom model.parameters.adapters import LoRA\n\n", 1
    )
    save(tiny_experiment(), run)
    adapted = dataclasses.replace(tiny_experiment().model, adapters=LoRA(rank=2))
    assert from_file(config(CONFIG, adds), fits, init_from=str(run)).model == adapted
    save(tiny_experiment(model__adapters=LoRA(rank=4)), run)  # the run's own
    assert from_file(config(CONFIG, adds), fits, init_from=str(run)).model.adapters == LoRA(rank=4)


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


@pytest.mark.parametrize("earlier", MOVED_MODULES)
def test_an_import_of_an_earlier_module_says_where_its_classes_are(earlier, tmp_path):
    with pytest.raises(ModuleNotFoundError) as error:
        importlib.import_module(earlier)
    assert error.value.name == earlier  # it is missing, and not a module that it imports
    modules = MOVED_MODULES[earlier]
    classes = {
        name: cls.__module__ for name, cls in all_option_classes(Experiment).items() if cls.__module__ in modules
    }
    assert set(classes.values()) == set(modules)
    for name, module in classes.items():
        (tmp_path / "mine.py").write_text(f"\n\nfrom {earlier} import {name}\n")
        text = refusal(str(tmp_path / "mine.py"))
        line = f"from {module} import {name}"
        assert text.endswith(f"; it is {' and '.join(modules)} now; write: {line}")
        assert f"mine.py, line 3: ModuleNotFoundError: No module named '{earlier}'" in text
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "from train.sharding import (\n    Sharding,\n    Mesh as M,\n)\n",
            "; it is train.parallel.mesh and train.parallel.table now; write: from train.parallel.table import Sharding; "
            "from train.parallel.mesh import Mesh as M",
        ),
        ("from model.rotary import helper\n", "; write: from model.positions.rotary import helper"),
        ("import model.rotary as rotary\n", "named 'model.rotary'; it is model.positions.rotary now"),
    ],
)
def test_the_import_to_write_keeps_the_names_of_the_statement(source, words, tmp_path):
    (tmp_path / "mine.py").write_text(source)
    assert refusal(str(tmp_path / "mine.py")).endswith(words)


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


def words_of(annotation):
    """The words that an annotation allows, those of a tuple's items included."""
    for one in alternatives(annotation):
        if typing.get_origin(one) is typing.Literal:
            yield from typing.get_args(one)
        elif typing.get_origin(one) is tuple:
            yield from words_of(typing.get_args(one)[0])


WITH_CHOICES = {
    (cls, field): choices
    for cls in all_option_classes(Experiment).values()
    for field, annotation in fields_of(cls).items()
    if (choices := list(words_of(annotation)))
}


@pytest.mark.parametrize(("cls", "field"), WITH_CHOICES, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_an_unknown_word_for_a_field_with_choices_lists_all_of_them(cls, field):
    option = object.__new__(cls)  # without the other fields
    object.__setattr__(option, field, None)
    with pytest.raises(UserError) as error:
        override(option, f"{field}=no_such_word")
    assert str(error.value).startswith(f"--set {field}: expected ")
    assert str(error.value).endswith(", got 'no_such_word' (str)")
    assert all(repr(choice) in str(error.value) for choice in WITH_CHOICES[cls, field])


EXPERTS = "model.ffn=Experts(num_experts=4, top_k=2, expert=Gated(width=16), router=SigmoidRouter(groups=Groups({})))"


def test_an_earlier_word_is_refused_with_the_choices_and_its_word_now(config):
    groups = EXPERTS.format("count=2, top_k=1")
    for word, hint in (("two_best", "; 'two_best' is 'top2_sum' now"), ("three_best", "")):
        said = f"model.ffn.router.groups.score: expected 'max' or 'top2_sum', got '{word}' (str)"
        text = refusal(config(), [groups, f"model.ffn.router.groups.score={word}"])
        assert text == f"--set {said}{hint}"
        assert refusal(config(), [EXPERTS.format(f"count=2, top_k=1, score={word}")]).endswith(f"\n  {said}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (\n", "odd.py, line 1: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit(0)\n", "odd.py, line 2: the config exits Python (SystemExit(0))"),
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
        (CONFIG.replace("Data(", "Data(path='a\\0b', "), "data.path='a\\x00b' contains a NUL"),
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

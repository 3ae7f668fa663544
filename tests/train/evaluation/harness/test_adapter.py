"""The adapter without lm_eval: a stand-in for its base class. The real one: python -m tests.parity.harness.compare."""

import sys
import types

import pytest

from model.errors import UserError
from train.evaluation.harness import adapter


class Base:
    """As `TemplateLM`, the parts that the adapter uses."""

    def __init__(self):
        self.cached = []
        self.cache_hook = self

    def add_partial(self, *entry):
        self.cached.append(entry)


@pytest.fixture
def lm(models, monkeypatch):
    """The adapter of a recorded model."""
    names = ("lm_eval", "lm_eval.api", "lm_eval.api.model", "tqdm")
    modules = {name: types.ModuleType(name) for name in names}
    modules["lm_eval.api.model"].TemplateLM = Base

    class Bar:
        def __init__(self, **_):
            self.update = lambda count: None

        __enter__, __exit__ = lambda self: self, lambda self, *_: None

    modules["tqdm"].tqdm = Bar
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    adapter.adapter_class.cache_clear()
    yield adapter.adapter_class()(models["adds_begin"]._run)
    adapter.adapter_class.cache_clear()


def request(*arguments):
    return types.SimpleNamespace(args=arguments, task_name="local")


def test_marks_and_lengths(lm):
    assert (lm.prefix_token_id, lm.eot_token_id, lm.max_length) == (1, 2, 128)
    assert lm.tok_encode("the") == [1, *lm.tok_encode("the", add_special_tokens=False)]
    assert "/" not in lm.tokenizer_name


def test_results_are_in_the_order_of_requests_and_cached(lm):
    pairs = [(("a", "b"), [1, 5, 6], [7, 8]), (("c", "d"), [1] * 60, [9]), (None, [1], [5])]
    found = lm._loglikelihood_tokens(pairs)
    assert found == [lm._loglikelihood_tokens([pair])[0] for pair in pairs]
    assert lm.cached[:2] == [("loglikelihood", ("a", "b"), found[0]), ("loglikelihood", ("c", "d"), found[1])]
    assert len(lm.cached) == 4  # a window of a longer text is not cached alone


def test_a_long_text_is_the_sum_of_its_windows(lm):
    text = "the cat sees " * 15
    (total, short) = lm.loglikelihood_rolling([request(text), request("the")])
    ids = lm.tok_encode(text)
    assert 128 < len(ids) < 256
    parts = lm._loglikelihood_tokens([(None, [1], ids[:128]), (None, ids[-129 : 128 - len(ids)], ids[128:])])
    assert total == pytest.approx(sum(value for value, _ in parts))
    assert [entry[0] for entry in lm.cached[:2]] == ["loglikelihood_rolling"] * 2
    assert short > total


def test_texts(lm):
    keywords = {"until": ["."], "max_gen_toks": 4}
    found = lm.generate_until([request("the", keywords), request("a dog", keywords)])
    assert found == [lm.generate_until([request(text, keywords)])[0] for text in ("the", "a dog")]
    assert ("generate_until", ("the", keywords), found[0]) in lm.cached


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    adapter.adapter_class.cache_clear()
    with pytest.raises(UserError, match=r"--harness needs the package lm-eval.*: pip install -e '.\[harness\]'$"):
        adapter.adapter_class()


def test_the_table_has_a_line_for_every_metric():
    metrics = {"alias": "choice", "acc,none": 0.25, "acc_stderr,none": 0.125, "f1,strict": 1.0, "sample_len": 12}
    lines = adapter.table(
        {"run": "runs/a", "step": 3, "lm_eval": "0.4.13", "results": {"choice": metrics}}
    ).splitlines()
    assert lines[0] == "runs/a, step 3, lm_eval 0.4.13"
    assert [line.split() for line in lines[2:]] == [
        ["task", "metric", "value", "standard", "error"],
        ["choice", "acc", "0.2500", "0.1250"],
        ["choice", "f1", "(strict)", "1.0000", "-"],
    ]

"""Every switch is live: each field of each option is changed, and the change must be seen."""

import dataclasses
import itertools
import typing
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import ModelConfig
from model.encoder.source import Source
from model.errors import UserError
from model.feedforward.loads import update_load_biases
from model.layers import Except
from model.layout import ONE_DEVICE
from model.options.annotations import alternatives, fields_of, item_annotation, option_classes
from model.options.assignments import override
from model.options.tree import check
from model.transformer import abstract_params, init
from model.transformer import forward as pass_of_target
from tests.model.liveness import of_feedforward, of_mixers, of_models, of_positions
from tests.tiers import first_of_each
from train.objectives.next_token import stream_of_batch

# What a change must be seen in:
#   parameters  their names, shapes or dtypes
#   initial     the program that draws them
#   output      the logits, with the same parameters, tokens and dropout key
#   gradient    the program of the gradient, for options that leave the numbers alone
#   losses      what training adds to cross-entropy, with the same parameters and tokens
#   moved       the load biases after a step
#   batches     the stream of a batch of training, with the same parameters
#   refused     a UserError for tokens that the model took before
# field: (settings to start from, the change, where it shows)
CASES = of_models.CASES | of_mixers.CASES | of_positions.CASES | of_feedforward.CASES


def reachable(cls=ModelConfig):
    """Every option class that a model's options can hold."""
    found = {cls}
    for annotation in fields_of(cls).values():
        for choice in (annotation, item_annotation(annotation)):
            for inner in option_classes(choice).values():
                found |= reachable(inner)
    return found


def test_every_field_of_every_option_has_a_case():
    fields = {f"{cls.__name__}.{name}" for cls in reachable() for name in fields_of(cls)}
    assert fields == set(CASES)


def forward(config, params, tokens, **options):
    """The pass of these tokens; with an encoder, they are their own source."""
    source = {} if config.encoder is None else {"source": Source(jnp.asarray(tokens))}
    return pass_of_target(config, params, tokens, **source, **options)


def program(function, *arguments):
    """The text of a traced and simplified program; a fresh function each time, so that nothing is remembered."""
    return jax.jit(lambda *a: function(*a)).lower(*arguments).as_text()


def drawing(config):
    return program(lambda: init(config, jax.random.key(0)))


def loss_of(config):
    def loss(params, tokens):
        output = forward(config, params, tokens, weights_BT=jnp.ones(tokens.shape))
        return output.logits_BTV.sum() + sum(output.losses.values())

    return loss


def gradient(config, tokens):
    return program(jax.grad(loss_of(config)), abstract_params(config), tokens)


@pytest.fixture(scope="module")
def start(small):
    """The small model with one layer, written out: it runs one operation after another without compiling."""
    return small(scan_layers=False, num_layers=1)


@pytest.fixture(scope="module")
def once():
    """once(kind, config, make): what `make(config)` returns, made once for all cases that start from the config."""
    made = {}

    def of(kind, config, make):
        if (kind, config) not in made:
            made[kind, config] = make(config)
        return made[kind, config]

    return of


@pytest.mark.parametrize("field", CASES)
def test_every_field_is_live(field, start, drawn, tokens, once):
    settings, change, evidence = CASES[field]
    for setting in settings:
        start = override(start, setting)
    changed = override(start, change)
    assert changed != start
    check(changed)
    if evidence == "parameters":
        assert abstract_params(changed) != abstract_params(start)
        return
    assert abstract_params(changed) == abstract_params(start), "a case should name the plainest place to see it"
    if evidence == "initial":
        assert drawing(changed) != once("drawing", start, drawing)
    elif evidence == "gradient":
        assert gradient(changed, tokens) != once("gradient", start, lambda c: gradient(c, tokens))
    elif evidence == "refused":
        with pytest.raises(UserError, match="longer than (encoder.)?context_length=8|no kernel for experts"):
            forward(changed, drawn(changed), tokens)
    elif evidence == "batches":
        batch = {"tokens": tokens, "source": tokens}
        before, after = (stream_of_batch(c, drawn(start), batch, ONE_DEVICE).stream_BTD for c in (start, changed))
        assert np.abs(before - after).max() > 1e-3
    elif evidence == "losses":
        params, counted = drawn(start), {"weights_BT": jnp.ones(tokens.shape), "targets_BT": tokens}
        before, after = (sum(forward(c, params, tokens, **counted).losses.values()) for c in (start, changed))
        assert abs(before - after) > 1e-3
    elif evidence == "moved":
        params = drawn(start)
        measured = forward(start, params, tokens, weights_BT=jnp.ones(tokens.shape)).measurements
        before, after = (update_load_biases(c, params, measured)["blocks"]["ffn"] for c in (start, changed))
        assert np.abs(before["load_bias"] - after["load_bias"]).max() > 1e-3
    else:
        params, key = drawn(start), jax.random.key(0)
        logits = lambda c: forward(c, params, tokens, dropout_key=key).logits_BTV  # noqa: E731
        before, after = once("logits", start, logits), logits(changed)
        assert np.abs(before - after.astype(jnp.float32)).max() > 1e-3


def test_what_is_compared_stays_when_nothing_changes(start, tokens):
    same = dataclasses.replace(start)
    assert drawing(same) == drawing(start)
    assert gradient(same, tokens) == gradient(start, tokens)


REQUIRED = {"num_heads": 4, "width": 24, "size": 3, "stride": 3, "block": 2, "factor": 2.0, "original_length": 8}
REQUIRED |= {"kv_rank": 5, "head_dim": 4, "rotary_head_dim": 2, "value_head_dim": 6}
REQUIRED |= {"low_frequency_factor": 0.5, "high_frequency_factor": 4.0}
REQUIRED |= {"short_factors": (1.5, 2.0), "long_factors": (3.0, 4.0)}
REQUIRED |= {"num_experts": 8, "top_k": 2, "expert": "Gated(width=8)", "ffn": "Gated(width=8)"}
REQUIRED |= {"num_layers": 1, "context_length": 16, "mixer": "GroupedQuery(num_heads=4)"}
REQUIRED |= {"cross": "CrossAttention(num_heads=4)"}
REQUIRED |= {"taps": "('query',)"}
REQUIRED |= {"base_width": 8, "base_layers": 4}
REQUIRED |= {"step_length": 3, "scale": 0.5, "coefficient": 0.1, "count": 4}


def required(cls):
    """The fields of an option that have no default."""
    return [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]


def choices():
    """Returns every field that chooses among words or classes: the case of its option, its path, all its values."""
    for cls in sorted(reachable(), key=lambda cls: cls.__name__):
        for name, annotation in fields_of(cls).items():
            words = [w for a in alternatives(annotation) if typing.get_origin(a) is Literal for w in typing.get_args(a)]
            classes = [
                f"{n}({', '.join(f'{field}={REQUIRED[field]}' for field in required(c))})"
                for n, c in option_classes(annotation).items()
            ]
            optional = cls is Except  # None is there for "as the others"
            if len(words + classes) > 1 and not optional:
                yield f"{cls.__name__}.{name}", words + classes


# Fields with the same values as an earlier one are in the sweep.
CHOICES = first_of_each(lambda case: tuple(case[1]), choices())


@pytest.mark.parametrize(("field", "values"), CHOICES, ids=lambda value: value if isinstance(value, str) else "")
def test_all_values_of_a_choice_differ(field, values, start, tokens):
    settings, change, _ = CASES[field]
    for setting in settings:
        start = override(start, setting)
    if field == "ModelConfig.norm":
        values = ["LayerNorm(bias=False)", "RMSNorm"]  # differ in more than a bias
    if field == "QKNorm.norm":
        values = ["LayerNorm(bias=False)", "RMSNorm"]
    if field == "Rotary.scaling":
        values = ["None"] + [v.replace("LongRoPE(", "LongRoPE(factor=2.0, ") for v in values]
    if field == "ModelConfig.visibility":  # causal without a prefix; with one: attention/test_directions.py
        values = [v for v in values if v != "PrefixLM()"]
    if field == "Encoder.position":  # which has numbers for later keys
        values = [v.replace("RelativeBias()", "RelativeBias(bidirectional=True)") for v in values if v != "ALiBi()"]
    if field in ("Encoder.mixer", "Encoder.position"):  # the same ones as in a decoder: a few
        values = [v for v in values if v.startswith(("GroupedQuery", "GRU", "Rotary", "Learned", "RelativeBias"))]
    path = change.partition("=")[0]
    configs = [override(start, f"{path}={value}") for value in values]
    seen = [program(loss_of(config), abstract_params(config), tokens) for config in configs]
    if len(set(seen)) < len(values):  # some differ in what they make of the gradient alone
        seen = [gradient(config, tokens) for config in configs]
    if "initialization" in path:
        seen = [drawing(config) for config in configs]
    for (one, text), (other, other_text) in itertools.combinations(zip(values, seen, strict=True), 2):
        assert text != other_text, (one, other)

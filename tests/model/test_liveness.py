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
from model.errors import UserError
from model.feedforward.loads import move_load_biases
from model.layers import Except
from model.options import alternatives, check, fields_of, item_annotation, option_classes, override
from model.transformer import abstract_params, forward, init

# What a change must be seen in:
#   parameters  their names, shapes or dtypes
#   initial     the program that draws them
#   output      the logits, with the same parameters, tokens and dropout key
#   gradient    the program of the gradient, for options that leave the numbers alone
#   losses      what training adds to cross-entropy, with the same parameters and tokens
#   moved       the load biases after a step
#   refused     a UserError for tokens that the model took before
# field: (settings to start from, the change, where it shows)
LATENT = "attention=Latent(num_heads=3, kv_rank=5, query_rank=6, head_dim=4, rotary_head_dim=2, value_head_dim=6)"
NONE = "position=NoPositions"
TEMPERATURE = "attention.temperature=LogTemperature(floor=3, scale=0.5)"
LINEAR = [NONE, "attention=LinearAttention(num_heads=4)"]
DELTA = [NONE, "attention=GatedDelta(num_heads=4)"]
SPACE = [NONE, "attention=StateSpace(num_heads=4, state_dim=5)"]
LSTMS, GRUS = [NONE, "attention=LSTM(num_heads=2)"], [NONE, "attention=GRU(num_heads=2)"]
DYNAMIC = "position=Rotary(theta=10.0, scaling=DynamicNTK(factor=4.0, original_length=4))"
YARN = "position=Rotary(theta=10.0, scaling=YaRN(factor=4.0, original_length=100))"
DEEPSEEK = "position=Rotary(scaling=YaRN(factor=4.0, original_length=100, mscale=1.0, mscale_all_dim=0.5))"
LLAMA3 = (
    "position=Rotary(theta=10.0, scaling=Llama3Scaling("
    "factor=4.0, low_frequency_factor=0.5, high_frequency_factor=4.0, original_length=20))"
)
LONG = (
    "position=Rotary(theta=10.0, scaling=LongRoPE("
    "short_factors=(1.5, 2.0), long_factors=(3.0, 4.0), original_length=14, factor=4.0))"
)
EXPERTS = "Experts(num_experts=8, top_k=2, expert=Gated(width=8))"
GROUPED = f"ffn={EXPERTS[:-1]}, router=SoftmaxRouter(groups=Groups(count=4, kept=2)))"
CASES = {
    "ModelConfig.vocab_size": ([], "vocab_size=19", "parameters"),
    "ModelConfig.context_length": ([], "context_length=8", "refused"),
    "ModelConfig.num_layers": ([], "num_layers=3", "parameters"),
    "ModelConfig.width": ([], "width=24", "parameters"),
    "ModelConfig.attention": ([NONE], "attention=GroupedQuery(num_heads=2)", "parameters"),
    "ModelConfig.ffn": ([], "ffn=MLP(width=24)", "parameters"),
    "ModelConfig.position": ([], "position=NoPositions", "output"),
    "ModelConfig.exceptions": ([], "exceptions=(Except(layers='1', ffn=Gated(width=20)),)", "parameters"),
    "Except.layers": (
        ["exceptions=(Except(layers='1', position=NoPositions()),)"],
        "exceptions.0.layers='0'",
        "output",
    ),
    "Except.attention": (
        ["exceptions=(Except(layers='1', position=NoPositions()),)"],
        "exceptions.0.attention=GroupedQuery(num_heads=2)",
        "parameters",
    ),
    "Except.ffn": (
        ["exceptions=(Except(layers='1', position=NoPositions()),)"],
        "exceptions.0.ffn=Gated(width=20)",
        "parameters",
    ),
    "Except.position": (
        ["exceptions=(Except(layers='1', ffn=Gated(width=20)),)"],
        "exceptions.0.position=NoPositions()",
        "output",
    ),
    "ModelConfig.norm": ([], "norm=LayerNorm(bias=False)", "output"),
    "ModelConfig.embedding_norm": ([], "embedding_norm=RMSNorm", "parameters"),
    "ModelConfig.residual": ([], "residual=PostNorm", "parameters"),
    "ModelConfig.multipliers": ([], "multipliers=Multipliers(residual=2.0)", "output"),
    "ModelConfig.layer_scale": ([], "layer_scale=0.5", "parameters"),
    "PostNorm.alpha": (["residual=PostNorm"], "residual.alpha=2.0", "output"),
    "Parallel.shared_norm": (["residual=Parallel"], "residual.shared_norm=False", "parameters"),
    "HyperConnections.streams": (["residual=HyperConnections"], "residual.streams=3", "parameters"),
    "HyperConnections.dynamic": (["residual=HyperConnections"], "residual.dynamic=None", "parameters"),
    "Dynamic.scale": (["residual=HyperConnections"], "residual.dynamic.scale=0.5", "initial"),
    "Multipliers.embedding": (["position=Learned"], "multipliers.embedding=2.0", "output"),
    "Multipliers.residual": ([], "multipliers.residual=2.0", "output"),
    "Multipliers.logits": ([], "multipliers.logits=2.0", "output"),
    "ModelConfig.unembedding": ([], "unembedding=Untied", "parameters"),
    "ModelConfig.final_logit_softcap": ([], "final_logit_softcap=2.0", "output"),
    "ModelConfig.multi_token": ([], "multi_token=MultiToken", "parameters"),
    "MultiToken.depth": (["multi_token=MultiToken"], "multi_token.depth=2", "parameters"),
    "MultiToken.weight": (["multi_token=MultiToken"], "multi_token.weight=0.6", "losses"),
    "ModelConfig.dropout": ([], "dropout=Dropout(residual=0.3)", "output"),
    "ModelConfig.initialization": ([], "initialization=FanIn", "initial"),
    "ModelConfig.precision": ([], "precision=Precision(compute='bfloat16')", "output"),
    "ModelConfig.scan_layers": ([], "scan_layers=True", "gradient"),
    "ModelConfig.remat": ([], "remat=full", "gradient"),
    "GroupedQuery.num_heads": ([], "attention.num_heads=2", "parameters"),
    "GroupedQuery.num_kv_heads": ([], "attention.num_kv_heads=1", "parameters"),
    "GroupedQuery.head_dim": ([], "attention.head_dim=6", "parameters"),
    "GroupedQuery.qkv_bias": ([], "attention.qkv_bias=True", "parameters"),
    "GroupedQuery.output_bias": ([], "attention.output_bias=True", "parameters"),
    "GroupedQuery.qk_norm": ([], "attention.qk_norm=QKNorm", "parameters"),
    "GroupedQuery.sinks": ([], "attention.sinks=True", "parameters"),
    "GroupedQuery.scale": ([], "attention.scale=0.2", "output"),
    "GroupedQuery.output_gate": ([], "attention.output_gate=head", "parameters"),
    "QKNorm.norm": (["attention.qk_norm=QKNorm"], "attention.qk_norm.norm=LayerNorm(bias=False)", "output"),
    "QKNorm.over": (["attention.qk_norm=QKNorm"], "attention.qk_norm.over=projection", "parameters"),
    "QKNorm.after_positions": (["attention.qk_norm=QKNorm"], "attention.qk_norm.after_positions=True", "output"),
    "GroupedQuery.logit_softcap": ([], "attention.logit_softcap=0.3", "output"),
    "GroupedQuery.pattern": ([], "attention.pattern=SlidingWindow(size=3)", "output"),
    "GroupedQuery.temperature": ([], TEMPERATURE, "output"),
    "GroupedQuery.value_residual": ([], "attention.value_residual=ValueResidual", "output"),
    "ValueResidual.first": (["attention.value_residual=ValueResidual"], "attention.value_residual.first=1.0", "output"),
    "ValueResidual.own": (["attention.value_residual=ValueResidual"], "attention.value_residual.own=1.0", "output"),
    "ValueResidual.trained": (
        ["attention.value_residual=ValueResidual"],
        "attention.value_residual.trained=True",
        "parameters",
    ),
    "LogTemperature.floor": ([TEMPERATURE], "attention.temperature.floor=4", "output"),
    "LogTemperature.scale": ([TEMPERATURE], "attention.temperature.scale=0.2", "output"),
    "Latent.num_heads": ([LATENT], "attention.num_heads=2", "parameters"),
    "Latent.kv_rank": ([LATENT], "attention.kv_rank=4", "parameters"),
    "Latent.query_rank": ([LATENT], "attention.query_rank=None", "parameters"),
    "Latent.head_dim": ([LATENT], "attention.head_dim=6", "parameters"),
    "Latent.rotary_head_dim": ([LATENT], "attention.rotary_head_dim=4", "parameters"),
    "Latent.value_head_dim": ([LATENT], "attention.value_head_dim=4", "parameters"),
    "Latent.norm": ([LATENT], "attention.norm=LayerNorm(bias=False)", "output"),
    "Latent.scale": ([LATENT], "attention.scale=0.2", "output"),
    "Latent.pattern": ([LATENT], "attention.pattern=SlidingWindow(size=3)", "output"),
    "LinearAttention.num_heads": (LINEAR, "attention.num_heads=2", "parameters"),
    "LinearAttention.head_dim": (LINEAR, "attention.head_dim=6", "parameters"),
    "LinearAttention.chunk": (LINEAR, "attention.chunk=5", "gradient"),
    "GatedDelta.num_heads": (DELTA, "attention.num_heads=2", "parameters"),
    "GatedDelta.num_key_heads": (DELTA, "attention.num_key_heads=2", "parameters"),
    "GatedDelta.head_dim": (DELTA, "attention.head_dim=6", "parameters"),
    "GatedDelta.value_head_dim": (DELTA, "attention.value_head_dim=6", "parameters"),
    "GatedDelta.decay": (DELTA, "attention.decay=False", "parameters"),
    "GatedDelta.convolution": (DELTA, "attention.convolution=3", "parameters"),
    "GatedDelta.output_norm": (DELTA, "attention.output_norm=None", "parameters"),
    "GatedDelta.output_gate": (DELTA, "attention.output_gate=False", "parameters"),
    "GatedDelta.chunk": (DELTA, "attention.chunk=5", "gradient"),
    "StateSpace.num_heads": (SPACE, "attention.num_heads=2", "parameters"),
    "StateSpace.num_groups": (SPACE, "attention.num_groups=2", "parameters"),
    "StateSpace.head_dim": (SPACE, "attention.head_dim=6", "parameters"),
    "StateSpace.state_dim": (SPACE, "attention.state_dim=6", "parameters"),
    "StateSpace.convolution": (SPACE, "attention.convolution=3", "parameters"),
    "StateSpace.output_norm": (SPACE, "attention.output_norm=None", "parameters"),
    "StateSpace.chunk": (SPACE, "attention.chunk=5", "gradient"),
    "LSTM.num_heads": (LSTMS, "attention.num_heads=1", "parameters"),
    "LSTM.head_dim": (LSTMS, "attention.head_dim=6", "parameters"),
    "LSTM.forget_bias": (LSTMS, "attention.forget_bias=2.0", "initial"),
    "GRU.num_heads": (GRUS, "attention.num_heads=1", "parameters"),
    "GRU.head_dim": (GRUS, "attention.head_dim=6", "parameters"),
    "GRU.reset": (GRUS, "attention.reset=before", "parameters"),
    "SlidingWindow.size": (["attention.pattern=SlidingWindow(size=3)"], "attention.pattern.size=4", "output"),
    "SlidingWindow.first": (["attention.pattern=SlidingWindow(size=3)"], "attention.pattern.first=1", "output"),
    "Chunked.size": (["attention.pattern=Chunked(size=3)"], "attention.pattern.size=4", "output"),
    "Strided.stride": (["attention.pattern=Strided(stride=3)"], "attention.pattern.stride=4", "output"),
    "Fixed.stride": (["attention.pattern=Fixed(stride=3)"], "attention.pattern.stride=4", "output"),
    "Fixed.summaries": (["attention.pattern=Fixed(stride=3)"], "attention.pattern.summaries=2", "output"),
    "BlockSparse.block": (["attention.pattern=BlockSparse(block=2)"], "attention.pattern.block=3", "output"),
    "BlockSparse.first": (["attention.pattern=BlockSparse(block=2)"], "attention.pattern.first=2", "output"),
    "BlockSparse.last": (["attention.pattern=BlockSparse(block=2)"], "attention.pattern.last=1", "output"),
    "MLP.width": (["ffn=MLP(width=24)"], "ffn.width=20", "parameters"),
    "MLP.activation": (["ffn=MLP(width=24)"], "ffn.activation=relu", "output"),
    "MLP.bias": (["ffn=MLP(width=24)"], "ffn.bias=True", "parameters"),
    "Gated.width": ([], "ffn.width=20", "parameters"),
    "Gated.activation": ([], "ffn.activation=relu", "output"),
    "Gated.clamp": ([], "ffn.clamp=0.1", "output"),
    "Gated.up_offset": ([], "ffn.up_offset=1.0", "output"),
    "Gated.bias": ([], "ffn.bias=True", "parameters"),
    "Experts.num_experts": ([f"ffn={EXPERTS}"], "ffn.num_experts=6", "parameters"),
    "Experts.top_k": ([f"ffn={EXPERTS}"], "ffn.top_k=3", "output"),
    "Experts.expert": ([f"ffn={EXPERTS}"], "ffn.expert=MLP(width=8)", "parameters"),
    "Experts.router": ([f"ffn={EXPERTS}"], "ffn.router=SigmoidRouter", "output"),
    "Experts.weigh": ([f"ffn={EXPERTS}"], "ffn.weigh=input", "output"),
    "Experts.dispatch": ([f"ffn={EXPERTS}"], "ffn.dispatch=Capacity(factor=0.5)", "output"),
    "Experts.shared": ([f"ffn={EXPERTS}"], "ffn.shared=Shared(ffn=MLP(width=8))", "parameters"),
    "Experts.balance_loss": ([f"ffn={EXPERTS}"], "ffn.balance_loss=BalanceLoss(coefficient=0.1)", "losses"),
    "Experts.router_z_loss": ([f"ffn={EXPERTS}"], "ffn.router_z_loss=0.1", "losses"),
    "Experts.load_bias": ([f"ffn={EXPERTS}"], "ffn.load_bias=LoadBias", "parameters"),
    "Shared.ffn": (
        [f"ffn={EXPERTS}", "ffn.shared=Shared(ffn=MLP(width=8))"],
        "ffn.shared.ffn=Gated(width=8)",
        "parameters",
    ),
    "Shared.gate": ([f"ffn={EXPERTS}", "ffn.shared=Shared(ffn=MLP(width=8))"], "ffn.shared.gate=True", "parameters"),
    "SoftmaxRouter.renormalize": ([f"ffn={EXPERTS}"], "ffn.router.renormalize=False", "output"),
    "SoftmaxRouter.bias": ([f"ffn={EXPERTS}"], "ffn.router.bias=True", "parameters"),
    "SoftmaxRouter.scale": ([f"ffn={EXPERTS}"], "ffn.router.scale=2.0", "output"),
    "SoftmaxRouter.groups": ([f"ffn={EXPERTS}"], "ffn.router.groups=Groups(count=4, kept=1)", "output"),
    "SigmoidRouter.renormalize": (
        [f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"],
        "ffn.router.renormalize=False",
        "output",
    ),
    "SigmoidRouter.bias": ([f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"], "ffn.router.bias=True", "parameters"),
    "SigmoidRouter.scale": ([f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"], "ffn.router.scale=2.0", "output"),
    "SigmoidRouter.groups": (
        [f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"],
        "ffn.router.groups=Groups(count=4, kept=1)",
        "output",
    ),
    "Groups.count": ([GROUPED, "ffn.router.groups.kept=1"], "ffn.router.groups.count=2", "output"),
    "Groups.kept": ([GROUPED], "ffn.router.groups.kept=1", "output"),
    "Groups.score": ([GROUPED], "ffn.router.groups.score=two_best", "output"),
    "Capacity.factor": ([f"ffn={EXPERTS}", "ffn.dispatch=Capacity(factor=0.5)"], "ffn.dispatch.factor=1.0", "output"),
    "BalanceLoss.coefficient": (
        [f"ffn={EXPERTS}", "ffn.balance_loss=BalanceLoss(coefficient=0.1)"],
        "ffn.balance_loss.coefficient=0.2",
        "losses",
    ),
    "BalanceLoss.over": (
        [f"ffn={EXPERTS}", "ffn.balance_loss=BalanceLoss(coefficient=0.1)"],
        "ffn.balance_loss.over=sequence",
        "losses",
    ),
    "LoadBias.rate": ([f"ffn={EXPERTS}", "ffn.load_bias=LoadBias"], "ffn.load_bias.rate=0.1", "moved"),
    "Learned.offset": (["position=Learned"], "position.offset=2", "parameters"),
    "Sinusoidal.theta": (["position=Sinusoidal"], "position.theta=10.0", "output"),
    "ALiBi.scale": (["position=ALiBi"], "position.scale=0.5", "output"),
    "ALiBi.rounded": (["position=ALiBi", "attention=GroupedQuery(num_heads=16)"], "position.rounded=True", "output"),
    "RelativeBias.buckets": (["position=RelativeBias"], "position.buckets=8", "parameters"),
    "RelativeBias.distance": (["position=RelativeBias(buckets=4)"], "position.distance=6", "output"),
    "Rotary.theta": ([], "position.theta=10.0", "output"),
    "Rotary.fraction": ([], "position.fraction=0.5", "output"),
    "Rotary.interleaved": ([], "position.interleaved=True", "output"),
    "Rotary.scaling": ([], "position.scaling=LinearScaling(factor=4.0)", "output"),
    "LinearScaling.factor": (["position.scaling=LinearScaling(factor=4.0)"], "position.scaling.factor=2.0", "output"),
    "NTK.factor": (
        ["position.theta=10.0", "position.scaling=NTK(factor=4.0)"],
        "position.scaling.factor=2.0",
        "output",
    ),
    "DynamicNTK.factor": ([DYNAMIC], "position.scaling.factor=2.0", "output"),
    "DynamicNTK.original_length": ([DYNAMIC], "position.scaling.original_length=6", "output"),
    "YaRN.factor": ([YARN], "position.scaling.factor=2.0", "output"),
    "YaRN.original_length": ([YARN], "position.scaling.original_length=1000", "output"),
    "YaRN.beta_fast": ([YARN], "position.scaling.beta_fast=2.0", "output"),
    "YaRN.beta_slow": ([YARN], "position.scaling.beta_slow=4.0", "output"),
    "YaRN.truncate": ([YARN], "position.scaling.truncate=False", "output"),
    "YaRN.attention_factor": ([YARN], "position.scaling.attention_factor=1.5", "output"),
    "YaRN.mscale": ([DEEPSEEK], "position.scaling.mscale=2.0", "output"),
    "YaRN.mscale_all_dim": ([DEEPSEEK], "position.scaling.mscale_all_dim=2.0", "output"),
    "Llama3Scaling.factor": ([LLAMA3], "position.scaling.factor=2.0", "output"),
    "Llama3Scaling.low_frequency_factor": ([LLAMA3], "position.scaling.low_frequency_factor=0.9", "output"),
    "Llama3Scaling.high_frequency_factor": ([LLAMA3], "position.scaling.high_frequency_factor=8.0", "output"),
    "Llama3Scaling.original_length": ([LLAMA3], "position.scaling.original_length=40", "output"),
    "LongRoPE.short_factors": ([LONG], "position.scaling.short_factors=(1.0, 9.0)", "output"),
    "LongRoPE.long_factors": (
        [LONG, "position.scaling.original_length=11"],
        "position.scaling.long_factors=(1.0, 9.0)",
        "output",
    ),
    "LongRoPE.original_length": ([LONG], "position.scaling.original_length=11", "output"),
    "LongRoPE.factor": ([LONG], "position.scaling.factor=20.0", "output"),
    "LongRoPE.attention_factor": (
        [LONG, "position.scaling.factor=None", "position.scaling.attention_factor=1.0"],
        "position.scaling.attention_factor=1.5",
        "output",
    ),
    "LayerNorm.epsilon": (["norm=LayerNorm"], "norm.epsilon=0.1", "output"),
    "LayerNorm.scale": (["norm=LayerNorm"], "norm.scale=False", "parameters"),
    "RMSNorm.scale": ([], "norm.scale=zero", "initial"),
    "LayerNorm.bias": (["norm=LayerNorm"], "norm.bias=False", "parameters"),
    "RMSNorm.epsilon": ([], "norm.epsilon=0.1", "output"),
    "Untied.bias": (["unembedding=Untied"], "unembedding.bias=True", "parameters"),
    "Dropout.embedding": ([], "dropout.embedding=0.3", "output"),
    "Dropout.attention": ([], "dropout.attention=0.3", "output"),
    "Dropout.residual": ([], "dropout.residual=0.3", "output"),
    "Normal.std": ([], "initialization.std=0.5", "initial"),
    "Normal.scale_residual": ([], "initialization.scale_residual=False", "initial"),
    "Normal.beta": (["initialization.scale_residual=False"], "initialization.beta=0.5", "initial"),
    "FanIn.embedding_std": (["initialization=FanIn"], "initialization.embedding_std=0.5", "initial"),
    "FanIn.scale_residual": (["initialization=FanIn"], "initialization.scale_residual=True", "initial"),
    "FanIn.zero_residual": (["initialization=FanIn"], "initialization.zero_residual=True", "initial"),
    "FanIn.beta": (["initialization=FanIn"], "initialization.beta=0.5", "initial"),
    "Precision.parameters": ([], "precision.parameters=bfloat16", "parameters"),
    "Precision.compute": ([], "precision.compute=bfloat16", "output"),
    "Precision.gradients": (["precision=Precision(compute='bfloat16')"], "precision.gradients=bfloat16", "gradient"),
    "Precision.reductions": ([], "precision.reductions=bfloat16", "output"),
}


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


def program(function, *arguments):
    """The text of a traced and simplified program; a fresh function each time, so that nothing is remembered."""
    return jax.jit(lambda *a: function(*a)).lower(*arguments).as_text()


def drawing(config):
    return program(lambda: init(config, jax.random.key(0)))


def gradient(config, tokens):
    def loss(params, tokens):
        output = forward(config, params, tokens, counted_BT=jnp.ones(tokens.shape))
        return output.logits_BTV.sum() + sum(output.losses.values())

    return program(jax.grad(loss), abstract_params(config), tokens)


@pytest.fixture(scope="module")
def start(small):
    """The small model with its layers written out, so that it runs one operation after another without compiling."""
    return small(scan_layers=False)


@pytest.mark.parametrize("field", CASES)
def test_every_field_is_live(field, start, drawn, tokens):
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
        assert drawing(changed) != drawing(start)
    elif evidence == "gradient":
        assert gradient(changed, tokens) != gradient(start, tokens)
    elif evidence == "refused":
        with pytest.raises(UserError, match="longer than the model's context_length=8"):
            forward(changed, drawn(changed), tokens)
    elif evidence == "losses":
        params, counted = drawn(start), {"counted_BT": jnp.ones(tokens.shape), "targets_BT": tokens}
        before, after = (sum(forward(c, params, tokens, **counted).losses.values()) for c in (start, changed))
        assert abs(before - after) > 1e-3
    elif evidence == "moved":
        params = drawn(start)
        measured = forward(start, params, tokens, counted_BT=jnp.ones(tokens.shape)).measured
        before, after = (move_load_biases(c, params, measured)["blocks"]["ffn"] for c in (start, changed))
        assert np.abs(before["load_bias"] - after["load_bias"]).max() > 1e-3
    else:
        params, key = drawn(start), jax.random.key(0)
        before, after = (forward(c, params, tokens, dropout_key=key).logits_BTV for c in (start, changed))
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
REQUIRED |= {"floor": 3, "scale": 0.5, "coefficient": 0.1, "count": 4, "kept": 2}


def required(cls):
    """The fields of an option that have no default."""
    return [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]


def choices():
    """Every field that chooses among words or among classes: the case of its option, its path, all it can be."""
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


@pytest.mark.parametrize(
    ("field", "values"), list(choices()), ids=lambda value: value if isinstance(value, str) else ""
)
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
    path = change.partition("=")[0]
    seen = {}
    for value in values:
        config = override(start, f"{path}={value}")
        seen[value] = gradient(config, tokens) + (drawing(config) if "initialization" in path else "")
    for one, other in itertools.combinations(values, 2):
        assert seen[one] != seen[other], (one, other)

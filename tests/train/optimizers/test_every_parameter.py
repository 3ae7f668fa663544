"""How every parameter of every mechanism is treated, as literal tables; a new parameter fails until it has its row."""

import dataclasses
import typing

import jax
import jax.numpy as jnp

from model.attention.grouped_query import GroupedQuery, QKNorm
from model.attention.latent import Latent
from model.attention.value_residual import ValueResidual
from model.config import ModelConfig
from model.feedforward.balance import LoadBias
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.feedforward.routing import SigmoidRouter
from model.layers import Except
from model.mixers import Mixer
from model.norms import LayerNorm, RMSNorm
from model.options.annotations import alternatives, fields_of
from model.options.tree import check
from model.parameters.adapters import DoRA
from model.parameters.precision import Precision, for_inference
from model.parameters.quantized_weights import QuantizedWeights
from model.parameters.specs import ROLES, Role, is_trained, partition, specs_by_name
from model.positions.absolute import Learned, NoPositions
from model.positions.relative import RelativeBias
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.state_space import StateSpace
from model.residual import HyperConnections, Residual, Sandwich
from model.transformer import abstract_params, specs
from model.vocabulary.embedding import Untied
from model.vocabulary.multi_token import MultiToken
from model.vocabulary.per_layer import PerLayerEmbedding
from model.vocabulary.score_head import ScoreHead
from train.optimizers.options import AdamW, decay_mask, muon_dimensions

HALF = Precision(parameters="bfloat16", compute="bfloat16")
SIZES = {"vocab_size": 11, "context_length": 6, "width": 8, "precision": HALF}


def attention():
    """Attention with all of its options, a norm of each kind around it, layer scale, learned positions."""
    heads = GroupedQuery(
        num_heads=4,
        num_kv_heads=2,
        qkv_bias=True,
        output_bias=True,
        output_gate="head",
        sinks=True,
        qk_norm=QKNorm(norm=LayerNorm(), over="each_head"),
    )
    layers = [GroupedQuery(num_heads=4, output_gate="channel", qk_norm=QKNorm(over=o)) for o in ("head", "projection")]
    return ModelConfig(
        num_layers=3,
        mixer=heads,
        exceptions=tuple(Except(layers=str(i), mixer=layer) for i, layer in enumerate(layers, start=1)),
        ffn=MLP(width=12, bias=True),
        norm=LayerNorm(),
        embedding_norm=LayerNorm(),
        embedding_width=4,
        layer_scale=0.1,
        per_layer_embedding=PerLayerEmbedding(width=5),
        residual=Sandwich(),
        position=Learned(),
        unembedding=Untied(bias=True),
        **SIZES,
    )


def mixers():
    """A layer of each other mixer."""
    layers = [
        Latent(num_heads=2, kv_rank=4, head_dim=2, rotary_head_dim=2, value_head_dim=4),
        LinearAttention(num_heads=2),
        GatedDelta(num_heads=2, num_key_heads=1),
        LSTM(num_heads=2),
        GRU(num_heads=2),
        StateSpace(num_heads=2, state_dim=4),
    ]
    return ModelConfig(
        num_layers=7,
        mixer=Latent(num_heads=2, kv_rank=4, query_rank=6, head_dim=2, rotary_head_dim=2, value_head_dim=4),
        exceptions=tuple(Except(layers=str(i), mixer=layer) for i, layer in enumerate(layers, start=1)),
        ffn=MLP(width=12),
        position=NoPositions(),
        **SIZES,
    )


def between_layers():
    """Weights of streams, and of the values of layers, all of them trained."""
    return ModelConfig(
        num_layers=2,
        mixer=GroupedQuery(num_heads=2, value_norm=RMSNorm(), value_residual=ValueResidual(trained=True)),
        ffn=MLP(width=12),
        position=RelativeBias(buckets=4, max_distance=6),
        residual=HyperConnections(streams=3),
        layer_scale=0.1,
        stream_scale=1.0,
        score_head=ScoreHead(),
        **SIZES,
    )


def experts():
    """Experts with biases of all kinds and a shared one, gated layers, and a module that predicts further ahead."""
    ffn = Experts(
        num_experts=4,
        top_k=2,
        expert=Gated(width=6, bias=True),
        router=SigmoidRouter(bias=True, norm=RMSNorm(), expert_scale=True),
        shared=Shared(ffn=Gated(width=5, bias=True), gate=True),
        load_bias=LoadBias(),
        branch_norms=RMSNorm(),
    )
    return ModelConfig(num_layers=2, mixer=GroupedQuery(num_heads=2), ffn=ffn, multi_token=MultiToken(depth=2), **SIZES)


def treatment(config):
    """For each parameter: its role, whether it is decayed, the axes that Muon sees, and its formats under bfloat16."""
    tree = specs(config)
    decayed, muon = decay_mask(AdamW(), tree), muon_dimensions(tree)
    used = jax.eval_shape(lambda params: for_inference(params, tree, config.precision), abstract_params(config))
    trained = specs_by_name(partition(tree, tree, is_trained)[0])
    leaves = {"decayed": decayed, "muon": muon, "used": used, "stored": abstract_params(config)}
    found = {}
    for name, spec in specs_by_name(tree).items():
        mine = leaves
        for key in name.split("."):
            mine = {what: branch[key] for what, branch in mine.items()}
        words = [spec.role]
        if name not in trained:
            words.append("untrained")
        if mine["decayed"]:
            words.append("decayed")
        if mine["muon"] is not None:
            sides = [
                " ".join(str(spec.axes[i]) for i in axes)
                for axes in (mine["muon"].reduction_axis, mine["muon"].output_axis)
            ]
            words.append(f"[{sides[0]} -> {sides[1]}]")
        words += [what for what in ("used", "stored") if mine[what].dtype == jnp.float32]
        found[name] = " ".join(words)
    return found


# The role; whether the step updates it instead of the optimizer; whether weight decay applies to it; the axes between
# which Muon orthogonalises it, layer by layer; whether it is float32 in use, and in storage, where all else is
# bfloat16.
ATTENTION = """
blocks.0.mixer.gate               projection decayed [embed -> heads]
blocks.0.mixer.key                projection decayed [embed -> kv_heads head_dim]
blocks.0.mixer.key_bias           bias
blocks.0.mixer.key_norm.bias      bias
blocks.0.mixer.key_norm.scale     scale
blocks.0.mixer.output             residual decayed [heads head_dim -> embed]
blocks.0.mixer.output_bias        bias
blocks.0.mixer.query              projection decayed [embed -> heads head_dim]
blocks.0.mixer.query_bias         bias
blocks.0.mixer.query_norm.bias    bias
blocks.0.mixer.query_norm.scale   scale
blocks.0.mixer.sink               sink
blocks.0.mixer.value              value decayed [embed -> kv_heads head_dim]
blocks.0.mixer.value_bias         bias
blocks.0.residual.mixer_gain               gain
blocks.0.residual.mixer_norm.bias          bias
blocks.0.residual.mixer_norm.scale         scale
blocks.0.residual.mixer_output_norm.bias   bias
blocks.0.residual.mixer_output_norm.scale  scale
blocks.0.per_layer.gate               projection decayed [embed -> ffn]
blocks.0.per_layer.norm.bias          bias
blocks.0.per_layer.norm.scale         scale
blocks.0.per_layer.output             residual decayed [ffn -> embed]
blocks.0.ffn.down                     residual decayed [ffn -> embed]
blocks.0.ffn.down_bias                bias
blocks.0.ffn.up                       value decayed [embed -> ffn]
blocks.0.ffn.up_bias                  bias
blocks.0.residual.ffn_gain                     gain
blocks.0.residual.ffn_norm.bias                bias
blocks.0.residual.ffn_norm.scale               scale
blocks.0.residual.ffn_output_norm.bias         bias
blocks.0.residual.ffn_output_norm.scale        scale
embedding.input_projection            projection decayed [embed -> embed]
embedding.norm.bias                   bias
embedding.norm.scale                  scale
embedding.output                      unembedding decayed
embedding.output_projection           projection decayed [embed -> embed]
embedding.output_bias                 bias
embedding.table                       embedding decayed
final_norm.bias                       bias
final_norm.scale                      scale
per_layer.norm.bias                   bias
per_layer.norm.scale                  scale
per_layer.projection                  projection decayed [embed -> None None]
per_layer.table                       embedding decayed
position.table                        position decayed
"""

MIXERS = """
blocks.0.mixer.key_up             projection decayed [rank -> heads head_dim]
blocks.0.mixer.kv_down            projection decayed [embed -> rank]
blocks.0.mixer.kv_norm.scale      scale
blocks.0.mixer.output             residual decayed [heads head_dim -> embed]
blocks.0.mixer.query              projection decayed [rank -> heads head_dim]
blocks.0.mixer.query_down         projection decayed [embed -> rank]
blocks.0.mixer.query_norm.scale   scale
blocks.0.mixer.rotary_key         projection decayed [embed -> head_dim]
blocks.0.mixer.value_up           value decayed [rank -> heads head_dim]
blocks.1.mixer.key_up             projection decayed [rank -> heads head_dim]
blocks.1.mixer.kv_down            projection decayed [embed -> rank]
blocks.1.mixer.kv_norm.scale      scale
blocks.1.mixer.output             residual decayed [heads head_dim -> embed]
blocks.1.mixer.query              projection decayed [embed -> heads head_dim]
blocks.1.mixer.rotary_key         projection decayed [embed -> head_dim]
blocks.1.mixer.value_up           value decayed [rank -> heads head_dim]
blocks.2.mixer.key                projection decayed [embed -> heads head_dim]
blocks.2.mixer.output             residual decayed [heads head_dim -> embed]
blocks.2.mixer.query              projection decayed [embed -> heads head_dim]
blocks.2.mixer.value              projection decayed [embed -> heads head_dim]
blocks.3.mixer.decay              projection decayed [embed -> heads]
blocks.3.mixer.decay_bias         decay_bias used
blocks.3.mixer.decay_rate         decay_rate used
blocks.3.mixer.gate               projection decayed [embed -> heads head_dim]
blocks.3.mixer.key                projection decayed [embed -> heads head_dim]
blocks.3.mixer.key_filter         filter decayed
blocks.3.mixer.output             residual decayed [heads head_dim -> embed]
blocks.3.mixer.output_norm.scale  scale
blocks.3.mixer.query              projection decayed [embed -> heads head_dim]
blocks.3.mixer.query_filter       filter decayed
blocks.3.mixer.strength           projection decayed [embed -> heads]
blocks.3.mixer.value              projection decayed [embed -> heads head_dim]
blocks.3.mixer.value_filter       filter decayed
blocks.4.mixer.bias               bias
blocks.4.mixer.forget_bias        bias
blocks.4.mixer.input              projection decayed [embed -> None heads head_dim]
blocks.4.mixer.output             residual decayed [heads head_dim -> embed]
blocks.4.mixer.recurrent          recurrent decayed [head_dim -> None None]
blocks.5.mixer.bias               bias
blocks.5.mixer.input              projection decayed [embed -> None heads head_dim]
blocks.5.mixer.output             residual decayed [heads head_dim -> embed]
blocks.5.mixer.recurrent          recurrent decayed [head_dim -> None None]
blocks.5.mixer.reset_bias         bias
blocks.6.mixer.decay_bias         decay_bias used
blocks.6.mixer.decay_rate         decay_rate used
blocks.6.mixer.gate               projection decayed [embed -> heads head_dim]
blocks.6.mixer.key                projection decayed [embed -> None head_dim]
blocks.6.mixer.key_bias           bias
blocks.6.mixer.key_filter         filter decayed
blocks.6.mixer.output             residual decayed [heads head_dim -> embed]
blocks.6.mixer.output_norm.scale  scale
blocks.6.mixer.query              projection decayed [embed -> None head_dim]
blocks.6.mixer.query_bias         bias
blocks.6.mixer.query_filter       filter decayed
blocks.6.mixer.skip               skip
blocks.6.mixer.step               projection decayed [embed -> heads]
blocks.6.mixer.value              projection decayed [embed -> heads head_dim]
blocks.6.mixer.value_bias         bias
blocks.6.mixer.value_filter       filter decayed
"""

BETWEEN_LAYERS = """
blocks.mixer.key                        projection decayed [embed -> kv_heads head_dim]
blocks.mixer.output                     residual decayed [heads head_dim -> embed]
blocks.mixer.position_bias              bias
blocks.mixer.query                      projection decayed [embed -> heads head_dim]
blocks.mixer.value                      value decayed [embed -> kv_heads head_dim]
blocks.mixer.value_norm.scale           scale
blocks.mixer.value_residual.weights     mixing
blocks.ffn.down                             residual decayed [ffn -> embed]
blocks.ffn.up                               value decayed [embed -> ffn]
blocks.residual.mixer_dynamic           dynamic_mixing decayed
blocks.residual.mixer_dynamic_norm.scale scale
blocks.residual.mixer_gain              gain
blocks.residual.mixer_mix_scale         dynamic_mixing decayed
blocks.residual.mixer_norm.scale        scale
blocks.residual.mixer_pass              mixing
blocks.residual.mixer_read              mixing
blocks.residual.mixer_write             mixing
blocks.residual.mixer_write_scale       dynamic_mixing decayed
blocks.residual.ffn_dynamic                 dynamic_mixing decayed
blocks.residual.ffn_dynamic_norm.scale      scale
blocks.residual.ffn_gain                    gain
blocks.residual.ffn_mix_scale               dynamic_mixing decayed
blocks.residual.ffn_norm.scale              scale
blocks.residual.ffn_pass                    mixing
blocks.residual.ffn_read                    mixing
blocks.residual.ffn_write                   mixing
blocks.residual.ffn_write_scale             dynamic_mixing decayed
blocks.stream_scale                     gain
embedding.table                             embedding decayed
final_norm.scale                            scale
score_head.weight                           score decayed used
"""

EXPERTS = """
blocks.mixer.key           projection decayed [embed -> kv_heads head_dim]
blocks.mixer.output        residual decayed [heads head_dim -> embed]
blocks.mixer.query         projection decayed [embed -> heads head_dim]
blocks.mixer.value         value decayed [embed -> kv_heads head_dim]
blocks.residual.mixer_norm.scale    scale
blocks.ffn.down                residual decayed [ffn -> embed]
blocks.ffn.down_bias           bias
blocks.ffn.gate                projection decayed [embed -> ffn]
blocks.ffn.gate_bias           bias
blocks.ffn.expert_scale        gain
blocks.ffn.input_norm.scale    scale
blocks.ffn.load_bias           load_bias untrained used stored
blocks.ffn.output_norm.scale   scale
blocks.ffn.router              router decayed [embed -> expert] used
blocks.ffn.router_bias         router_bias used
blocks.ffn.router_norm.scale   scale
blocks.ffn.shared.down         residual decayed [ffn -> embed]
blocks.ffn.shared.down_bias    bias
blocks.ffn.shared.gate         projection decayed [embed -> ffn]
blocks.ffn.shared.gate_bias    bias
blocks.ffn.shared.up           value decayed [embed -> ffn]
blocks.ffn.shared.up_bias      bias
blocks.ffn.shared_gate         projection decayed
blocks.ffn.shared_input_norm.scale   scale
blocks.ffn.shared_output_norm.scale  scale
blocks.ffn.up                  value decayed [embed -> ffn]
blocks.ffn.up_bias             bias
blocks.residual.ffn_norm.scale          scale
embedding.table                embedding decayed
final_norm.scale               scale
multi_token.final_norm.scale   scale
multi_token.projection         projection decayed [embed -> embed]
multi_token.stream_norm.scale  scale
multi_token.token_norm.scale   scale
"""


def table(text):
    return dict(line.split(maxsplit=1) for line in text.strip().splitlines())


def test_attention_norms_and_tables():
    config = attention()
    check(config)
    found, expected = treatment(config), table(ATTENTION)
    assert {name: words for name, words in found.items() if not name.startswith(("blocks.1.", "blocks.2."))} == expected
    for number in (1, 2):
        inside = {n.removeprefix(f"blocks.{number}."): words for n, words in found.items() if f"s.{number}." in n}
        other = {n.removeprefix("blocks.0."): words for n, words in found.items() if n.startswith("blocks.0.")}
        other["mixer.gate"] = "projection decayed [embed -> heads head_dim]"
        assert inside.items() <= other.items()


def test_every_mixer():
    config = mixers()
    check(config)
    assert {name: words for name, words in treatment(config).items() if ".mixer." in name} == table(MIXERS)
    met = {type(layer.mixer) for c in (config, attention()) for layer in c.layers}
    assert met == set(alternatives(Mixer)), "a mixer has no layer here"


def test_weights_of_streams_and_of_values():
    config = between_layers()
    check(config)
    assert treatment(config) == table(BETWEEN_LAYERS)


def test_every_residual_scheme():
    """A parameter of another scheme than these two has its row too."""
    known = {name.replace("blocks.0.", "blocks."): words for name, words in table(ATTENTION).items()}
    known |= table(BETWEEN_LAYERS)
    for option in alternatives(Residual):
        found = treatment(dataclasses.replace(between_layers(), residual=option()))
        assert {name: words for name, words in found.items() if ".residual." in name}.items() <= known.items()


def test_experts_and_modules_that_predict_ahead():
    config = experts()
    check(config)
    found = treatment(config)
    inside = {name: words for name, words in found.items() if name.startswith("multi_token.block.")}
    assert {name: words for name, words in found.items() if name not in inside} == table(EXPERTS)
    assert {n.replace("multi_token.block", "blocks"): words for n, words in inside.items()} == {
        name: words for name, words in found.items() if name.startswith("blocks.")
    }


def test_every_role_has_a_parameter_here():
    quantized = dataclasses.replace(attention(), precision=Precision(weights=QuantizedWeights()))  # is not trained
    adapted = dataclasses.replace(between_layers(), adapters=DoRA())  # see test_adapted_parameters.py
    met = {
        spec.role
        for config in (attention(), mixers(), between_layers(), experts(), quantized, adapted)
        for spec in specs_by_name(specs(config)).values()
    }
    assert met == set(ROLES) == set(typing.get_args(Role))


def test_every_way_to_norm_queries_and_keys_is_here():
    met = {layer.mixer.qk_norm.over for layer in attention().layers}
    assert met == set(typing.get_args(fields_of(QKNorm)["over"]))

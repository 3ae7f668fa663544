"""Parameter specs: roles, axes, and splitting and merging trees."""

import math

import jax
import numpy as np
import pytest

from model.feedforward.balance import LoadBias
from model.feedforward.experts import Experts
from model.feedforward.mlp import Gated
from model.layers import Except
from model.parameters.maker import ConstantValue, FanIn, Gaussian, LecunNormal
from model.parameters.specs import Spec, is_trained, merge, partition, specs_by_name
from model.positions.absolute import Learned
from model.transformer import abstract_params, init, logical_axes, specs
from model.vocabulary.multi_token import MultiToken

EXPERTS = Experts(num_experts=4, top_k=2, expert=Gated(width=8), load_bias=LoadBias())


@pytest.fixture(scope="module")
def config(small):
    """Returns a config with a stack with experts, a stack without, and a module that predicts tokens further ahead."""
    return small(
        num_layers=3,
        ffn=EXPERTS,
        exceptions=(Except(layers="1", ffn=Gated(width=24)),),
        multi_token=MultiToken(),
        position=Learned(),
        initialization=FanIn(embedding_std=0.3, scale_residual=True),
    )


def test_the_trees_are_alike(config):
    shapes, axes = abstract_params(config), logical_axes(config)
    assert jax.tree.structure(specs(config)) == jax.tree.structure(shapes)
    for name, spec in specs_by_name(specs(config)).items():
        leaf, its = shapes, axes
        for key in name.split("."):
            leaf, its = leaf[key], its[key]
        assert its == spec.axes
        assert len(spec.axes) == len(leaf.shape), name
        assert (spec.axes[0] == "layer") == name.startswith(("blocks.", "multi_token.")), name
        assert not set(spec.inputs) & set(spec.outputs)
        assert set(spec.inputs + spec.outputs) < set(range(len(leaf.shape) + 1))


def test_a_start_is_recorded(config):
    found = {name: spec.initializer for name, spec in specs_by_name(specs(config)).items()}
    assert found["embedding.table"] == found["position.table"] == Gaussian(0.3, 1.0)
    assert found["blocks.0.mixer.query"] == LecunNormal(16)
    assert found["blocks.0.ffn.down"] == LecunNormal(8, 1 / math.sqrt(6))
    assert found["blocks.1.ffn.down"] == LecunNormal(24, 1 / math.sqrt(6))
    assert found["blocks.0.ffn.load_bias"] == ConstantValue(0.0)
    assert found["final_norm.scale"] == ConstantValue(1.0)


def test_layers_in_front_count_matrices():
    spec = Spec(
        role="residual",
        axes=("heads", "head_dim", "embed"),
        inputs=(0, 1),
        outputs=(2,),
        initializer=ConstantValue(0.0),
    )
    assert spec.stacked("layer") == Spec(
        role="residual",
        axes=("layer", "heads", "head_dim", "embed"),
        inputs=(1, 2),
        outputs=(3,),
        initializer=ConstantValue(0.0),
    )


def test_a_vector_to_one_number_is_no_hidden_matrix():
    assert not Spec(role="projection", axes=("embed",), inputs=(0,), initializer=ConstantValue(0.0)).is_hidden_matrix
    table = Spec(role="embedding", axes=("vocab", "embed"), inputs=(0,), outputs=(1,), initializer=ConstantValue(0.0))
    assert not table.is_hidden_matrix


def test_a_tree_is_split_and_put_together(config):
    params, tree = init(config, jax.random.key(0)), specs(config)
    trained, state = partition(params, tree, is_trained)
    assert list(specs_by_name(state)) == [
        "blocks.0.ffn.load_bias",
        "blocks.2.ffn.load_bias",
        "multi_token.block.ffn.load_bias",
    ]
    assert not set(specs_by_name(trained)) & set(specs_by_name(state))
    whole = merge(trained, state)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, whole, params)
    assert merge(state, trained).keys() == whole.keys()


def test_the_choice_sees_names_and_specs(config):
    """Parameters are chosen by name or by role, as for freezing."""
    tree = specs(config)
    frozen, rest = partition(tree, tree, lambda name, spec: name.startswith("blocks.1.") or spec.role == "embedding")
    assert set(frozen) == {"blocks", "embedding"}
    assert set(frozen["blocks"]) == {"1"}
    assert set(rest["blocks"]) == {"0", "2"}
    assert "embedding" not in rest


def test_nothing_to_split_off_leaves_nothing(small):
    params = abstract_params(small())
    assert partition(params, specs(small()), is_trained) == (params, {})

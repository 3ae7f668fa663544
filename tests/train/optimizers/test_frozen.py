"""Which parameters an option freezes, and what it refuses to."""

import pytest

from model.parameters.specs import Spec, specs_by_name
from model.transformer import specs
from train.optimizers.frozen import Frozen, mark_frozen

FFN = "Experts(num_experts=4, top_k=2, expert=Gated(width=16), load_bias=LoadBias())"


@pytest.fixture(scope="module")
def known(tiny_experiment):
    return specs(tiny_experiment(model__ffn=FFN, model__unembedding="Untied()").model)


def still(known, **fields):
    return {name for name, spec in specs_by_name(mark_frozen(known, Frozen(**fields))).items() if spec.frozen}


def test_a_role_and_a_part_of_one_name_are_two_things(known):
    assert still(known) == set()
    assert still(known, roles=("embedding",)) == {"embedding.table"}
    assert still(known, parts=("embedding",)) == {"embedding.table", "embedding.unembedding"} or still(
        known, parts=("embedding",)
    ) == {name for name in specs_by_name(known) if name.startswith("embedding.")}
    scales = {name for name, spec in specs_by_name(known).items() if spec.role == "scale"}
    assert still(known, roles=("scale",), parts=("embedding",)) == scales | still(known, parts=("embedding",))


def test_what_is_not_trained_anyway_is_not_frozen(known):
    """A load bias is moved by the step, in a part that is frozen too."""
    marked = specs_by_name(mark_frozen(known, Frozen(parts=("blocks",))))
    assert not marked["blocks.ffn.load_bias"].frozen
    assert marked["blocks.ffn.router"].frozen
    assert not Frozen(roles=("load_bias",)).freezes("blocks", Spec(role="load_bias", axes=()))


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"roles": ("embeding",)}, "roles", ["nothing is called 'embeding'; roles are ", "did you mean 'embedding'?"]),
        ({"parts": ("block",)}, "parts", ["nothing is called 'block'; parts are ", "blocks", "did you mean 'blocks'?"]),
        ({"roles": ("load_bias",)}, "roles", ["'load_bias' is no role that is trained"]),
        ({"roles": ("recurrent",)}, "roles", ["'recurrent' is the role of no parameter here", "router"]),
        ({"parts": ("blocks.ffn",)}, "parts", ["nothing is called 'blocks.ffn'"]),
        ({"parts": ("embedding", "blocks", "final_norm")}, "parts", ["every parameter is frozen"]),
    ],
)
def test_names_without_a_parameter_and_all_of_them_are_refused(fields, field, words, known):
    found = list(Frozen(**fields).problems_with(known))
    assert [name for name, _ in found] == [field]
    for word in words:
        assert word in found[0][1]
    assert not list(Frozen(roles=("embedding", "scale"), parts=("blocks",)).problems_with(known))

"""The modules that make and run the models of each family: `transformers`, or code here where it has no such class."""

from tests.parity import older, reference
from tests.parity.equations import EQUATIONS

SOURCES = EQUATIONS | {"hf_olmo": older, "phi_msft": older, "stablelm_epoch": older}


def source_of(family):
    """Returns the module, or object, with `make`, `save`, `logits`, `gradients` and `greedy` of a family."""
    return SOURCES.get(family, reference)

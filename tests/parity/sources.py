"""The modules that make and run the models of each family: `transformers`, or code here where it has no such class."""

from tests.parity import grok, older, reference

SOURCES = {"grok": grok, "phi_msft": older, "stablelm_epoch": older}


def source_of(family):
    """Returns the module with `make`, `save`, `logits`, `gradients` and `greedy` of a family."""
    return SOURCES.get(family, reference)

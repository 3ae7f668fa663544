"""The shapes in which every family is compared: small, and odd on purpose.

Heads are wider than their share of the model, key heads few, windows and original lengths shorter than the 20 tokens
that are read, biases on and off, embeddings tied and not, first layers dense.
"""

from tests.parity import llama_like_cases, other_cases

CASES = llama_like_cases.CASES | other_cases.CASES

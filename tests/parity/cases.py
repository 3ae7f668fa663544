"""The shapes in which every family is compared: small, and unusual on purpose.

Heads are wider than model width / heads, key heads are few, windows and original lengths are shorter than the 20 tokens
of a row, biases are on and off, embeddings tied and untied, first layers dense.
"""

from tests.parity import (
    classic_cases,
    gemma4_cases,
    llama_like_cases,
    multimodal_cases,
    other_cases,
    recent_cases,
)

CASES = llama_like_cases.CASES | gemma4_cases.CASES | classic_cases.CASES | other_cases.CASES | recent_cases.CASES
CASES |= multimodal_cases.CASES

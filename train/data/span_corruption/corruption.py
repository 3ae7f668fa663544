"""Takes spans of tokens out of a row of text: how many, which ones, and the source and the target that this makes.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5), section
3.1.4 and figure 2: in the source a sentinel stands for each hidden span; the target has every hidden span after its
sentinel, and ends with one more sentinel. Lengths are drawn as in the code that was published with the paper: a row of
n tokens has a fixed number of hidden tokens and of spans, kept and hidden stretches take turns, and all ways to choose
their lengths are alike. The first token of a row is therefore always kept, and its last one always hidden.
"""

import bisect

import numpy as np


def hidden_and_spans(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """Returns the number of hidden tokens and of spans in a row of `length` tokens; none in a row of one token."""
    if length < 2:
        return 0, 0
    hidden = min(max(round(length * noise_density), 1), length - 1)
    return hidden, min(max(round(hidden / mean_span_length), 1), hidden, length - hidden)


def longest_text(source_length: int, noise_density: float, mean_span_length: float, mark: bool) -> int:
    """Returns the most tokens of text, at least 2, of which the source has at most `source_length` tokens.

    Its mark of the end, if there is one, is counted.
    """

    def length_of_source(length: int) -> int:  # never falls where the text has one token more
        hidden, spans = hidden_and_spans(length, noise_density, mean_span_length)
        return length - hidden + spans + mark

    lengths = range(2, 2 + int((source_length + 1) / (1 - noise_density)))
    return max(1 + bisect.bisect_right(lengths, source_length, key=length_of_source), 2)


def draw_hidden(
    length: int, noise_density: float, mean_span_length: float, generator: np.random.Generator
) -> np.ndarray:
    """Returns which tokens of a row are hidden, bool (length,)."""
    hidden, spans = hidden_and_spans(length, noise_density, mean_span_length)
    if not spans:
        return np.zeros(length, bool)
    stretches = np.stack([_parts(length - hidden, spans, generator), _parts(hidden, spans, generator)], axis=1)
    return np.repeat(np.tile([False, True], spans), stretches.ravel())


def _parts(total: int, number: int, generator: np.random.Generator) -> np.ndarray:
    """Returns `number` lengths of at least 1 that sum to `total`; all ways to choose them are alike."""
    cuts = np.sort(generator.choice(total - 1, number - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def take_out(ids: np.ndarray, hidden: np.ndarray, first_sentinel: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the source, the target and the sentinel after their last one, for the token ids of a row.

    Args:
      ids: the tokens, (length,).
      hidden: which of them are hidden, bool (length,).
      first_sentinel: the id of the first sentinel; the next one is one lower, and so on.
    """
    starts = hidden & ~np.concatenate([[False], hidden[:-1]])
    sentinels = first_sentinel - np.arange(starts.sum())
    source = ids.copy()
    source[starts] = sentinels
    target = np.insert(ids[hidden], np.flatnonzero(starts[hidden]), sentinels)
    return source[~hidden | starts], target, first_sentinel - len(sentinels)

"""The harness's requests as this code understands them: windows of long texts, and the keywords of generation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from model.errors import UserError
from model.inference.sampling import Sampling

DEFAULT_NEW_TOKENS = 256
# The first of these that is given counts, as in the harness.
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_FILTERS = ("top_k", "top_p", "min_p", "repetition_penalty")


class Continuation(NamedTuple):
    """Tokens to score after a context, which has at least one."""

    context: list[int]
    continuation: list[int]


class Generation(NamedTuple):
    """How a text is generated: until one of these strings, by this sampling."""

    until: tuple[str, ...]
    sampling: Sampling


def rolling_windows(ids: Sequence[int], prefix: int, length: int) -> Iterator[Continuation]:
    """Yields windows of at most `length` inputs that score every token once.

    The first predicts its tokens after the prefix. Every later one predicts as many tokens as fit, and the last one,
    which has fewer to predict, has a whole window of context all the same.
    """
    done = 0
    while done < len(ids):
        stop = min(done + length, len(ids))
        # The window has `length` inputs, of which the last ones precede the predicted tokens.
        first = max(0, stop - length)
        context = [ids[first - 1] if first else prefix, *ids[first:done]]
        yield Continuation(context, list(ids[done:stop]))
        done = stop


def parse_generation(keywords: Mapping[str, Any], where: str) -> Generation:
    """The generation that the keywords of a request ask for. Raises UserError for keywords that are not known."""
    left = dict(keywords)
    until = left.pop("until", None)
    strings = [until] if isinstance(until, str) else list(until or ())
    limits = [int(left.pop(name)) for name in _LIMITS if left.get(name) is not None]
    draws, temperature = left.pop("do_sample", None), float(left.pop("temperature", None) or 0.0)
    if draws and not temperature:
        temperature = 1.0
    filters = {name: left.pop(name) for name in _FILTERS if left.get(name) is not None}
    unknown = [name for name, value in left.items() if value is not None and name not in _LIMITS]
    if unknown:
        known = ", ".join(("until", *_LIMITS, "do_sample", "temperature", *_FILTERS))
        raise UserError(f"{where}: generation_kwargs.{unknown[0]} is not supported; known: {known}")
    if draws is False or not temperature:
        temperature = 0.0
        filters = {name: value for name, value in filters.items() if name == "repetition_penalty"}
    sampling = Sampling(max_tokens=(limits or [DEFAULT_NEW_TOKENS])[0], temperature=temperature, **filters)
    return Generation(tuple(strings), sampling)


def cut(text: str, until: Sequence[str]) -> str:
    """A generated text up to the first of the strings that it has."""
    for stop in until:
        if stop:
            text = text.split(stop)[0]
    return text

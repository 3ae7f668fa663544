"""Requests of the interface as requests of the engine: the parameters that completions and chats share, checked."""

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from model.inference.prompts import occurrence_indices
from model.inference.request import Request
from model.inference.sampling import Sampling
from model.inference.sources import prompt_and_source
from model.options.tree import find_problems
from train.generation.text_engine import TextRequest
from train.serving.parameters.body import Parameters
from train.serving.parameters.errors import ApiError, bad_parameter
from train.serving.parameters.options import Served
from train.serving.parameters.structured import compiled, take_form
from train.serving.parameters.tools import Tools

MOST_LOGPROBS = 20
MOST_SAMPLES = 128
MOST_STOPS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A checked request of the interface.

    Attributes:
      prompts: the ids of each prompt.
      samples: the number of texts for each prompt.
      requests: the requests of the engine: the samples of the first prompt, then those of the second.
      stream: whether the answer is sent while it is drawn.
      include_usage: whether a stream ends with the numbers of tokens.
      logprobs: whether the answer has log-probabilities.
      labels_by_id: whether their tokens are labelled `token_id:ID`.
      echo: the text of each prompt, which the answer begins with; None if it does not.
      no_new_tokens: whether the answer has the prompt alone.
      tools: the tools that the answer may call; None for none.
    """

    prompts: tuple[tuple[int, ...], ...]
    samples: int
    requests: tuple[TextRequest, ...]
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    labels_by_id: bool = False
    echo: tuple[str, ...] | None = None
    no_new_tokens: bool = False
    tools: Tools | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """The tokens of all prompts, each counted once."""
        return sum(map(len, self.prompts))


def check_model(parameters: Parameters, served: Served) -> None:
    """Raises ApiError (404) when the request names another model; one that names none is for the only model."""
    name = parameters.text("model")
    if name is not None and name != served.name:
        message = f"this server has no model {name[:80]!r}; its only model is {served.name!r}"
        raise ApiError(404, message, parameter="model", code="model_not_found")


def make_job(
    parameters: Parameters,
    served: Served,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | None,
    *,
    names: Sequence[str],
    num_logprobs: int | None = None,
    echo: Sequence[str] | None = None,
    tools: Tools | None = None,
) -> Job:
    """The job of prompts. Takes the parameters that completions and chats share, and refuses all that nobody took.

    Args:
      parameters: the parameters of the request.
      served: the model.
      prompts: the ids of each prompt.
      max_tokens: the most new tokens of a text; None for as many as fit.
      names: the name of each prompt for errors.
      num_logprobs: the number of likeliest tokens that are listed with each token; None for no log-probabilities.
      echo: the texts of the prompts, if the answer begins with them.
      tools: the tools that it may call.

    Raises:
      ApiError: 400 for an unknown, unsupported or invalid parameter, and for a prompt that is too long.
    """
    samples = parameters.whole("n", 1, 1, MOST_SAMPLES)
    seed = parameters.whole("seed")
    seed = secrets.randbits(32) if seed is None else seed % 2**32  # any 64-bit seed of the interface
    stops = _stop_strings(parameters)
    stop_ids = check_ids("stop_token_ids", parameters.ids("stop_token_ids", []), served)
    bias = _logit_bias(parameters, served)
    ignore_end = parameters.flag("ignore_eos")
    priority = parameters.whole("priority", 0, -(2**31), 2**31 - 1)
    sampling = _sampling(parameters, seed)
    stream, options = parameters.flag("stream"), parameters.take("stream_options")
    include_usage = _include_usage(parameters, options, stream)
    labels_by_id = parameters.flag("return_tokens_as_token_ids")
    form = take_form(parameters)
    if tools is not None and (calls := tools.form()) is not None:
        if form is not None:
            raise bad_parameter(form[0], "is given beside tool_choice, by which the answer is a call")
        form = "tools", calls
    parameters.finish()
    budgets = [_budget(served, len(ids), max_tokens, name) for ids, name in zip(prompts, names, strict=True)]
    constraint = None if form is None else compiled(*form, served)
    requests = []
    for ids, before, budget in zip(prompts, occurrence_indices(map(tuple, prompts)), budgets, strict=True):
        for sample in range(samples):
            prompt, source = prompt_and_source(served.encoder, ids)
            request = Request(
                prompt=prompt,
                source=source,
                sampling=dataclasses.replace(sampling, max_tokens=budget),
                begin=served.tokenizer.begin_of_document,
                end=None if ignore_end else served.tokenizer.end_of_document,
                stop_tokens=stop_ids if ignore_end else tuple({*served.stop_tokens, *stop_ids}),
                sample_index=before * samples + sample,
                num_logprobs=num_logprobs,
                num_prompt_logprobs=num_logprobs if echo is not None else None,
                only_scores=max_tokens == 0 and num_logprobs is not None and len(ids) > 1,
                logit_bias=bias,
                constraint=constraint,
                priority=priority,
            )
            requests.append(TextRequest(request=request, stop_strings=stops))
    return Job(
        prompts=tuple(map(tuple, prompts)),
        samples=samples,
        requests=tuple(requests),
        stream=stream,
        include_usage=include_usage,
        logprobs=num_logprobs is not None,
        labels_by_id=labels_by_id,
        echo=None if echo is None else tuple(echo),
        no_new_tokens=max_tokens == 0,
        tools=tools,
    )


def _budget(served: Served, length: int, max_tokens: int | None, name: str) -> int:
    """The most new tokens of a text. The last token takes no place in the context: nothing is read after it."""
    context, over = served.context_length, length - served.context_length
    if served.encoder is not None:  # the prompt is its source, and the text begins with a token of its own
        context, over, length = served.longest_source, length - served.longest_source, 1
    most = served.context_length + 1 - length
    if over > 0:
        raise ApiError(
            400,
            f"{name} has {context + over:,} tokens, more than the model's context of {context:,}; shorten it by "
            f"{over:,} tokens",
            parameter="messages" if name == "messages" else "prompt",
            code="context_length_exceeded",
        )
    if max_tokens is not None and max_tokens > most:
        raise ApiError(
            400,
            f"{name} has {length:,} tokens and max_tokens is {max_tokens:,}, more than the model's context of "
            f"{served.context_length:,} together; at most {most:,} new tokens fit",
            parameter="max_tokens",
            code="context_length_exceeded",
        )
    return most if max_tokens is None else max(1, max_tokens)


def _sampling(parameters: Parameters, seed: int) -> Sampling:
    """The rules that choose tokens. A filter with a value that removes nothing is left out."""
    temperature = parameters.number("temperature", 1.0)
    top_k = parameters.whole("top_k", 0, -1)
    filters: dict[str, Any] = {
        "top_k": None if top_k in (-1, 0) else top_k,
        "top_p": parameters.number("top_p", 1.0),
        "min_p": parameters.number("min_p", 0.0),
    }
    penalty = parameters.number("repetition_penalty")
    assert temperature is not None
    for shown in (1.0, temperature):  # at 0 filters have nothing to choose from; clients send them all the same
        kept = filters if shown else {}
        sampling = Sampling(temperature=shown, repetition_penalty=penalty, seed=seed, **kept)
        for problem in find_problems(sampling):
            name, _, words = problem.partition(" ")
            raise bad_parameter(name.rstrip(":"), words)
    return sampling


def _stop_strings(parameters: Parameters) -> tuple[str, ...]:
    value = parameters.take("stop", [])
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise parameters.wrong("stop", "a text, or a list of texts", value)
    if "" in stops:
        raise bad_parameter("stop", "has an empty text; expected at least one character in each")
    if len(stops) > MOST_STOPS:
        raise bad_parameter("stop", f"has {len(stops)} texts; at most {MOST_STOPS} are looked for")
    return tuple(stops)


def check_ids(name: str, ids: Sequence[int], served: Served) -> tuple[int, ...]:
    """Ids that the vocabulary has. Raises ApiError for others."""
    for token in ids:
        if not 0 <= token < served.tokenizer.vocab_size:
            raise bad_parameter(name, f"has the id {token}; the vocabulary is 0 to {served.tokenizer.vocab_size - 1:,}")
    return tuple(ids)


def _logit_bias(parameters: Parameters, served: Served) -> Mapping[int, float]:
    value = parameters.take("logit_bias", {})
    if not isinstance(value, dict):
        raise parameters.wrong("logit_bias", "an object of numbers by id", value)
    found: dict[int, float] = {}
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit()):
            raise bad_parameter("logit_bias", f"has the key {token[:40]!r}; expected ids")
        if not isinstance(bias, int | float) or isinstance(bias, bool) or not -100 <= bias <= 100:
            raise parameters.wrong("logit_bias", f"a number from -100 to 100 for id {token[:20]}", bias)
        found[check_ids("logit_bias", [int(token[:20])], served)[0]] = float(bias)
    return found


def _include_usage(parameters: Parameters, options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not stream or not isinstance(options, dict):
        raise bad_parameter("stream_options", "must be an object, beside stream=true")
    inside = Parameters(options, "stream_options.")
    include = inside.flag("include_usage")
    inside.flag("continuous_usage_stats")
    inside.flag("include_obfuscation")
    inside.finish()
    return include

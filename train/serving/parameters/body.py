"""The body of a request: JSON within a limit, and its parameters, each of which is read or refused by name."""

import asyncio
import difflib
import json
import math
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from train.serving.parameters.errors import ApiError, bad_parameter, unsupported

# Parameters of the interface that change nothing here: notes for the provider's books and caches.
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
# Parameters of the interface, and of the servers that extend it, that are not supported, with the values that ask for
# nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "documents": ([],),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "skip_special_tokens": (True,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}


async def read_body(request: Request, most_bytes: int, seconds: float) -> "Parameters":
    """The parameters in the body of a request. Raises ApiError: 400, 408, 413, 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another origin can send only other types without asking
        raise ApiError(415, f"the body is of type {kind or 'none'}; send JSON as content-type: application/json")
    closing = {"connection": "close"}
    # A connection that is closed while its client sends is reset, and the client never reads why. Kept open, the
    # server reads what still comes, and forgets it, until the time for the next request is over.
    too_large = f"the body is larger than {most_bytes:,} bytes; send less, or start the server with a larger --max_body"
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most_bytes:
        # A client that waits for leave to send its body does not send it now: its next request would count as the body.
        raise ApiError(413, too_large, headers=closing if "expect" in request.headers else {})
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                content += part
                if len(content) > most_bytes:
                    raise ApiError(413, too_large)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {seconds:g} s", headers=closing) from None
    except ClientDisconnect:
        raise ApiError(400, "the client left") from None
    try:
        values = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ApiError(400, "the body has too many lists or objects inside one another", code="invalid_json") from None
    except ValueError as error:
        # Python reads no number of thousands of digits, and says so in words for programmers.
        what = "has a number of too many digits" if "int_max_str_digits" in str(error) else f"is not JSON: {error}"
        raise ApiError(400, f"the body {what}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, "the body is not a JSON object with the parameters", code="invalid_json")
    return Parameters(values)


def is_ids(value: Any) -> bool:
    """Whether a value is a list of whole numbers."""
    return isinstance(value, list) and all(type(i) is int for i in value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


class Parameters:
    """Named values, of which each is taken once; `finish` refuses those that nobody took. null counts as not given."""

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._where = where
        self._known: set[str] = set()

    def take(self, name: str, default: Any = None) -> Any:
        """A value of any kind."""
        self._known.add(name)
        return self._values.get(name, default)

    def text(self, name: str, default: str | None = None) -> str | None:
        """A text. Raises ApiError for another value."""
        value = self.take(name, default)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a text", value)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false. Raises ApiError for another value."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def whole(self, name: str, default: int | None = None, least: int | None = None, most: int | None = None) -> Any:
        """A whole number within bounds. Raises ApiError for another value."""
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "a whole number", value)
        if (least is not None and value < least) or (most is not None and value > most):
            bounds = f"at least {least}" if most is None else f"from {least} to {most:,}"
            raise self.wrong(name, bounds, value)
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        """A number. Raises ApiError for another value."""
        value = self.take(name, default)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.wrong(name, "a number", value)
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise self.wrong(name, "a finite number", value)
        return found

    def ids(self, name: str, default: list[int] | None = None) -> list[int]:
        """A list of ids. Raises ApiError for another value."""
        value: list[int] = self.take(name, default)
        if not is_ids(value):
            raise self.wrong(name, "a list of ids", value)
        return value

    def wrong(self, name: str, expected: str, value: Any) -> ApiError:
        """The error for a value of a wrong kind."""
        shown = json.dumps(value, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return bad_parameter(self._where + name, f"must be {expected}, got {shown}")

    def finish(self) -> None:
        """Raises ApiError for the first parameter that nobody took: unknown, or known and not supported."""
        for name, value in self._values.items():
            if name in self._known or name in IGNORED:
                continue
            if name in UNSUPPORTED:
                if value in UNSUPPORTED[name]:
                    continue
                raise unsupported(self._where + name)
            near = difflib.get_close_matches(name, self._known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ApiError(
                400,
                f"unknown parameter {self._where}{name[:60]}{hint}",
                parameter=(self._where + name)[:80],
                code="unknown_parameter",
            )

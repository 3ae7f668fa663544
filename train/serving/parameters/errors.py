"""Errors of a request as the OpenAI interface writes them: a status, a message, a type, the parameter, a code."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

RETRY_SECONDS = 5
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused or fails.

    Attributes:
      status: the HTTP status.
      message: a sentence for the client.
      parameter: the parameter that is wrong, if it is one.
      code: a word for programs.
      headers: headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        parameter: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code
        self.headers = dict(headers or {})

    def content(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}

    def response(self) -> Response:
        """The answer."""
        return JSONResponse(self.content(), self.status, self.headers)


def try_later(status: int, message: str, *, code: str) -> ApiError:
    """The error for a request that may succeed when it is sent again: it says when."""
    return ApiError(status, message, code=code, headers={"retry-after": str(RETRY_SECONDS)})


def unsupported(name: str) -> ApiError:
    """The error for a parameter of the interface that this server does not know how to serve: 400."""
    message = f"{name} is not supported by this server; leave it out"
    return ApiError(400, message, parameter=name, code="unsupported_parameter")


def bad_parameter(name: str, problem: str) -> ApiError:
    """The error for a parameter with a wrong value: 400."""
    return ApiError(400, f"{name} {problem}", parameter=name, code="invalid_value")

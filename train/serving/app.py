"""The application: the paths of the interface, who may use them, and which errors they answer with."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from model.errors import UserError
from train.generation.worker import EngineWorker
from train.serving.answers import Answer, ClientLeftError, Format
from train.serving.chat import Chat, chat_ids, chat_job
from train.serving.completions import Completions, completion_job, text_ids
from train.serving.metrics import Metrics
from train.serving.page import page
from train.serving.parameters.body import Parameters, read_body
from train.serving.parameters.errors import ApiError, bad_parameter, try_later
from train.serving.parameters.jobs import Job, check_ids, check_model
from train.serving.parameters.options import LOCAL_HOSTS, Limits, Served
from train.serving.parameters.tools import take_tools
from train.serving.token_texts import TokenTexts

OPEN_PATHS = ("/", "/health")  # for everyone, also where a key is needed
Handler = Callable[[Request], Awaitable[Response]]


class Application:
    """Answers requests with the texts of a worker.

    Attributes:
      draining: whether the server stops: new requests get 503, running ones go on.
      asgi: the application for a server.
    """

    def __init__(self, served: Served, worker: EngineWorker, limits: Limits, *, api_key: str | None = None) -> None:
        """Args: the model, its worker, the limits, and the key that clients must send, None for none."""
        self.draining = False
        self.metrics = Metrics(lambda: worker.num_unfinished, lambda: worker.statistics)
        self._served, self._worker, self._limits, self._api_key = served, worker, limits, api_key
        self._texts = TokenTexts(served.tokenizer)
        self._page = page(served, needs_key=api_key is not None)
        paths: Mapping[str, tuple[str, Handler]] = {
            "/": ("GET", self._chat_page),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics_page),
            "/v1/models": ("GET", self._models),
            "/v1/models/{name:path}": ("GET", self._model),
            "/v1/completions": ("POST", self._completions),
            "/v1/chat/completions": ("POST", self._chat_completions),
            "/tokenize": ("POST", self._tokenize),
            "/detokenize": ("POST", self._detokenize),
        }
        routes = [
            Route(path, self._guarded(path, handler), methods=[method]) for path, (method, handler) in paths.items()
        ]
        self.asgi = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})

    def _guarded(self, path: str, handler: Handler) -> Handler:
        """A handler behind the checks that all paths share; counts requests, and turns errors into answers."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_access(request, path)
                if self.draining and request.method == "POST":
                    raise try_later(503, "the server stops; ask another one", code="stopping")
                response = await handler(request)
            except ApiError as error:
                response = error.response()
            except UserError as error:
                response = ApiError(400, str(error)).response()
            except ClientLeftError:
                response = Response(status_code=499)  # that nobody reads
            self.metrics.requests.labels(path, response.status_code).inc()
            return response

        return guarded

    def _check_access(self, request: Request, path: str) -> None:
        if self._api_key is None:
            # A page of another site may not reach this machine's server through a name of its own.
            host = request.headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name.strip("[]").lower() not in LOCAL_HOSTS:
                raise ApiError(403, f"this server without a key is for {', '.join(LOCAL_HOSTS)}, not {host[:80]!r}")
        elif path not in OPEN_PATHS:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            is_key = scheme.lower() == "bearer" and bool(given.strip())
            if not (is_key and hmac.compare_digest(given.strip().encode(), self._api_key.encode())):
                message = "wrong key" if is_key else "no key; send it as authorization: Bearer KEY"
                headers = {"www-authenticate": "Bearer"}
                raise ApiError(401, message, code="invalid_api_key", headers=headers)

    async def _chat_page(self, request: Request) -> Response:
        policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
        return HTMLResponse(self._page, headers={"content-security-policy": policy + "; base-uri 'none'"})

    async def _health(self, request: Request) -> Response:
        if self._worker.failure is not None:
            return PlainTextResponse("the engine failed\n", 503)
        return PlainTextResponse("stopping\n", 503) if self.draining else PlainTextResponse("ok\n")

    async def _metrics_page(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type=self.metrics.content_type)

    def _about_model(self) -> dict[str, Any]:
        about = {"id": self._served.name, "object": "model", "created": self._served.created, "owned_by": "cairn"}
        return {**about, "max_model_len": self._served.context_length}

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._about_model()]})

    async def _model(self, request: Request) -> Response:
        check_model(Parameters({"model": request.path_params["name"]}), self._served)
        return JSONResponse(self._about_model())

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, completion_job, Completions)

    async def _chat_completions(self, request: Request) -> Response:
        return await self._answer(request, chat_job, Chat)

    async def _answer(
        self,
        request: Request,
        job_of: Callable[[Parameters, Served], Job],
        form: Callable[[Job, TokenTexts], Format],
    ) -> Response:
        parameters = await self._body(request)
        job = await run_in_threadpool(job_of, parameters, self._served)  # a long text takes a while
        if len(job.requests) > self._worker.capacity:
            raise ApiError(
                400,
                f"the request asks for {len(job.requests):,} texts at once; this server holds {self._worker.capacity}",
                parameter="n" if len(job.prompts) == 1 else "prompt",
            )
        answer = Answer(
            job,
            form(job, self._texts),
            self._worker,
            self.metrics,
            model=self._served.name,
            seconds=self._limits.request_seconds,
        )
        return await answer.response(request.receive)

    async def _tokenize(self, request: Request) -> Response:
        parameters = await self._body(request)
        return JSONResponse(await run_in_threadpool(self._tokens_of, parameters))

    def _tokens_of(self, parameters: Parameters) -> dict[str, Any]:
        check_model(parameters, self._served)
        if parameters.take("messages") is not None:
            ids = chat_ids(parameters, self._served, take_tools(parameters, self._served))
        else:
            text, marked = parameters.text("prompt"), parameters.flag("add_special_tokens", True)
            if text is None:
                raise bad_parameter("prompt", "is missing; give a text, or messages")
            ids = text_ids(text, self._served, marked=marked)
        strings = {}
        if parameters.flag("return_token_strs"):
            strings = {"token_strs": [self._texts.label(token) for token in ids]}
        parameters.finish()
        return {"count": len(ids), "max_model_len": self._served.context_length, "tokens": list(ids), **strings}

    async def _detokenize(self, request: Request) -> Response:
        parameters = await self._body(request)
        check_model(parameters, self._served)
        ids = parameters.ids("tokens")
        parameters.finish()
        known = check_ids("tokens", ids, self._served)
        return JSONResponse({"prompt": await run_in_threadpool(self._served.tokenizer.decode, known)})

    async def _body(self, request: Request) -> Parameters:
        return await read_body(request, self._limits.body_bytes, self._limits.body_seconds)


async def _http_error(request: Request, error: Exception) -> Response:
    """The answer for a path or a method that there is not."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return ApiError(404, f"there is no {request.url.path[:200]}").response()
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return ApiError(error.status_code, message, headers=error.headers).response()

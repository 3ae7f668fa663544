"""Answers: waits for the texts of a job, and sends them whole or while they are drawn.

A job ends early when its client leaves, when its time is over, and when the server stops; then the engine stops drawing
its texts.
"""

import asyncio
import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from train.generation.text_engine import TextUpdate
from train.generation.worker import (
    Accepted,
    EngineFailedError,
    EngineWorker,
    Event,
    Failed,
    QueueFullError,
    Refused,
    TextChange,
)
from train.serving.metrics import Metrics
from train.serving.parameters.errors import ApiError, try_later
from train.serving.parameters.jobs import Job


class ClientLeftError(Exception):
    """Nobody waits for this answer any more."""


class Format(Protocol):
    """Writes changes of texts in the form of one endpoint."""

    kind: str
    chunk_kind: str
    prefix: str

    def opening(self, index: int) -> list[dict[str, Any]]:
        """The choices that a stream begins with."""

    def choice(self, index: int, update: TextUpdate, *, first: bool) -> dict[str, Any]:
        """A change of a text."""

    def whole(self, index: int, update: TextUpdate) -> dict[str, Any]:
        """A complete text."""


class _Left:
    """The client has left."""


class _TimeOver:
    """The time of the request is over."""


class Answer:
    """The answer to one job.

    Args:
      job: the job.
      form: writes its texts.
      worker: draws them.
      metrics: counts them.
      model: the name of the model.
      seconds: the time that the answer may take.
    """

    def __init__(
        self, job: Job, form: Format, worker: EngineWorker, metrics: Metrics, *, model: str, seconds: float
    ) -> None:
        self._job, self._form, self._worker, self._metrics = job, form, worker, metrics
        self._seconds = seconds
        self._began = time.monotonic()
        self._head = {
            "id": f"{form.prefix}-{uuid.uuid4().hex}",
            "object": form.kind,
            "created": int(time.time()),
            "model": model,
        }

    async def response(self, receive: Receive) -> Response:
        """The response, whole or to be streamed; the engine has accepted the job when it is returned.

        Raises ApiError, and ClientLeftError.
        """
        events = _Events(self._worker, self._job, receive, self._seconds)
        try:
            await events.accepted()
            if self._job.stream:
                return _EventStream(self._chunks(events), events)
            content = await self._whole(events)
        except BaseException:
            events.close()
            raise
        events.close()
        return JSONResponse(content)

    async def _changes(self, events: "_Events") -> AsyncIterator[TextChange]:
        began = False
        async for change in events.changes(len(self._job.requests)):
            if change.update.num_tokens and not began:
                began = True
                self._metrics.first_token.observe(time.monotonic() - self._began)
            if change.update.ended_by is not None:
                self._metrics.generated_tokens.inc(change.update.num_tokens)
            yield change
        self._metrics.prompt_tokens.inc(self._job.num_prompt_tokens)
        self._metrics.seconds.observe(time.monotonic() - self._began)

    async def _whole(self, events: "_Events") -> dict[str, Any]:
        parts: list[list[TextUpdate]] = [[] for _ in self._job.requests]
        async for change in self._changes(events):
            parts[change.index].append(change.update)
        updates = [_joined(part) for part in parts]
        choices = [self._form.whole(index, update) for index, update in enumerate(updates)]
        return {**self._head, "choices": choices, "usage": self._usage([update.num_tokens for update in updates])}

    async def _chunks(self, events: "_Events") -> AsyncIterator[dict[str, Any]]:
        head = {**self._head, "object": self._form.chunk_kind}
        usage = {"usage": None} if self._job.include_usage else {}
        counts, begun = [0] * len(self._job.requests), [False] * len(self._job.requests)
        for index in range(len(self._job.requests)):
            for choice in self._form.opening(index):
                yield {**head, "choices": [choice], **usage}
        async for change in self._changes(events):
            index, update = change.index, change.update
            counts[index] = update.num_tokens
            if not (update.text or update.tokens or update.prompt or update.ended_by):
                continue
            choice = self._form.choice(index, update, first=not begun[index])
            begun[index] = True
            yield {**head, "choices": [choice], **usage}
        if self._job.include_usage:
            yield {**head, "choices": [], "usage": self._usage(counts)}

    def _usage(self, counts: Sequence[int]) -> dict[str, int]:
        new = 0 if self._job.no_new_tokens else sum(counts)
        prompt = self._job.num_prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _joined(parts: Sequence[TextUpdate]) -> TextUpdate:
    """All changes of a text as one."""
    return dataclasses.replace(
        parts[-1],
        text="".join(part.text for part in parts),
        tokens=tuple(token for part in parts for token in part.tokens),
        prompt=next((part.prompt for part in parts if part.prompt is not None), None),
    )


class _Events:
    """What happens to a job, in order: the engine's events, the client that leaves, the time that is over."""

    def __init__(self, worker: EngineWorker, job: Job, receive: Receive, seconds: float) -> None:
        """Hands the job to the worker. Raises ApiError: 429, 503."""
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + seconds
        self._seconds, self._worker = seconds, worker
        self._queue: asyncio.Queue[Event | _Left | _TimeOver] = asyncio.Queue()

        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._queue.put_nowait, event)

        try:
            self._ticket = worker.submit(job.requests, tell)
        except QueueFullError as error:
            raise try_later(429, f"too many requests: {error}", code="queue_full") from None
        except EngineFailedError as error:
            raise ApiError(503, f"the engine does not work any more: {error}", code="engine_failed") from None
        self._timer = loop.call_later(seconds, self._queue.put_nowait, _TimeOver())
        self._watcher = loop.create_task(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._worker.cancel(self._ticket)
        self._queue.put_nowait(_Left())

    async def accepted(self) -> None:
        """Waits until the engine has taken the job. Raises ApiError when it refuses."""
        match await self._next():
            case Accepted():
                return
            case Refused(error):
                raise ApiError(400, str(error), code="does_not_fit")

    async def changes(self, unfinished: int) -> AsyncIterator[TextChange]:
        """The changes of `unfinished` texts until all are complete. Raises ApiError and ClientLeftError."""
        while unfinished:
            event = await self._next()
            assert isinstance(event, TextChange)
            if event.update.ended_by == "cancelled":
                raise try_later(503, "the server stops", code="stopping")
            if event.update.ended_by == "dead_end":
                message = "no token of this model goes on as response_format, tools or another constraint asks"
                raise ApiError(500, message, code="dead_end")
            unfinished -= event.update.ended_by is not None
            yield event

    async def _next(self) -> Event:
        match event := await self._queue.get():
            case _Left():
                raise ClientLeftError
            case _TimeOver():
                message = f"the answer took longer than {self._seconds:g} s, the limit of this server"
                raise ApiError(504, message, code="time_over")
            case Failed(error):
                raise ApiError(500, f"the engine failed: {type(error).__name__}", code="engine_failed")
            case _:
                return event

    def close(self) -> None:
        """Stops the drawing of texts that are not complete."""
        self._timer.cancel()
        self._watcher.cancel()
        if self._ticket.num_unfinished:
            self._worker.cancel(self._ticket)


class _EventStream(Response):
    """Server-sent events: a line of JSON for each chunk, then [DONE]. An error is the last event."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], events: _Events) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._events = chunks, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events. A client that reads too slowly is cut off when the time of its request is over."""
        abort: Callable[[], None] = scope.get("state", {}).get("abort", lambda: None)
        try:
            async with asyncio.timeout_at(self._events.deadline + 1):  # after the message that the time is over
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                try:
                    async for chunk in self._chunks:
                        await self._send(send, json.dumps(chunk, ensure_ascii=False, separators=(",", ":")))
                    await self._send(send, "[DONE]")
                except ApiError as error:
                    await self._send(send, json.dumps(error.content(), ensure_ascii=False))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientLeftError:
            pass
        except TimeoutError:
            abort()
            # Until the connection knows that it is lost; it would miss the rest of the answer otherwise, and say so.
            await asyncio.sleep(0)
        finally:
            self._events.close()

    async def _send(self, send: Send, data: str) -> None:
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

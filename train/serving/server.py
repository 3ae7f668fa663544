"""Runs the application until a signal: then it answers new requests with 503 while the running ones finish."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from model.errors import UserError
from train.generation.worker import EngineWorker
from train.serving.app import Application
from train.serving.connections import connection_class
from train.serving.parameters.options import Limits

_POLL_SECONDS = 0.02
_CLOSING_SECONDS = 5.0  # for the last bytes of answers
_SEND_BYTES = 64 << 10  # that the system keeps for a client that reads slowly, else some megabytes
_OTHER_FILES = 200  # that a process holds beside its connections


class Server(uvicorn.Server):
    """A server of one application.

    The first SIGTERM or Ctrl-C drains: see `drain`. A second one ends the running requests at once.
    """

    def __init__(self, application: Application, worker: EngineWorker, limits: Limits) -> None:
        self.application, self.worker, self.limits = application, worker, limits
        connections = min(limits.connections, _raise_file_limit() - _OTHER_FILES)
        super().__init__(
            uvicorn.Config(
                application.asgi,
                http=connection_class(limits.header_seconds, connections),
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=max(5, int(limits.header_seconds)),
                timeout_graceful_shutdown=int(_CLOSING_SECONDS),
                backlog=4096,
            )
        )
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run_on(self, listener: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        """Answers on a listening socket until a signal or `drain`; `ready` is called when it does."""

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(ready)
            await self.serve(sockets=[listener])

        asyncio.run(serve())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.application.draining:
            self.force_exit = self.should_exit = True
        self.drain()

    def drain(self) -> None:
        """Begins to stop, from any thread or a signal handler.

        Running requests have `drain_seconds`; those that are left then end with an error.
        """
        self.application.draining = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._begin_draining)

    def _begin_draining(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.drain_seconds):
                while self.worker.num_unfinished and self.worker.failure is None and not self.should_exit:
                    await asyncio.sleep(_POLL_SECONDS)
        await asyncio.to_thread(self.worker.close, _CLOSING_SECONDS)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises UserError when the address cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, ValueError) as error:  # a name may also be longer than names are
        why = getattr(error, "strerror", None) or "no such name"
        raise UserError(f"--host={host} is no address of this machine: {why}") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)  # connections inherit it
    try:
        listener.bind(address)
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; give another --port or --host") from None
    listener.setblocking(False)
    return listener


def _raise_file_limit() -> int:
    """Lets this process open as many files as it may, since each connection is one; returns that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

"""Connections that cannot hold a server: a client that sends or reads too slowly is cut off, and so is one too many."""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from train.serving.parameters.errors import RETRY_SECONDS

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: %d\r\ncontent-type: text/plain\r\n"
    b"content-length: 36\r\n\r\nthis server has too many connections"
) % RETRY_SECONDS
_POLITE = 100  # connections beside the others whose requests are read before they are refused
_REFUSAL_SECONDS = 1.0
# They warn of input that is no HTTP, of which the client is told, and of clients that left.
_LOGGERS = ("uvicorn.error", "asyncio")


def connection_class(header_seconds: float, most: int) -> type[H11Protocol]:
    """The protocol of a server's connections; its process logs errors of connections alone from then on.

    Args:
      header_seconds: in which the head of a request is complete, counted from the end of the one before; and in which
        a client takes the rest of an answer after its end.
      most: the most connections at once; one more gets 503.

    In the state of each request, "abort" is a function that closes its connection at once.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)

    class Connection(H11Protocol):
        """A connection with these limits."""

        _waiting: asyncio.TimerHandle | None = None
        _is_refused = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app_state = {**self.app_state, "abort": transport.abort}
            if len(self.connections) > most:
                self._is_refused = True
                # A close before the request was read would reset the connection, and the client would not read why.
                polite = len(self.connections) <= most + _POLITE
                self._waiting = self.loop.call_later(_REFUSAL_SECONDS if polite else 0, self._refuse)
                return
            self._waiting = self.loop.call_later(header_seconds, transport.abort)

        def _refuse(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(_FULL)
                self.transport.close()

        def data_received(self, data: bytes) -> None:
            if self._is_refused:
                self._refuse()
                return
            super().data_received(data)
            answering = self.cycle is not None and not self.cycle.response_complete
            if answering and self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def on_response_complete(self) -> None:
            # Also after this a client may be slow to read what is still in the buffer.
            if self._waiting is None:
                self._waiting = self.loop.call_later(header_seconds, self.transport.abort)
            super().on_response_complete()
            if self.cycle is not None and not self.cycle.response_complete:  # the next request was here already
                self._waiting.cancel()
                self._waiting = None

        def connection_lost(self, error: Exception | None) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
            super().connection_lost(error)

    return Connection

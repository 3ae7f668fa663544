"""What is served, and the limits of a request."""

import dataclasses
import functools
from collections.abc import Iterator

from model.encoder.option import Encoder
from train.data.tokenizers.interface import Tokenizer
from train.generation.chat_template import ChatPrompts
from train.generation.constraints import Constraints

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server.

    Attributes:
      body_bytes: of the body of a request.
      header_seconds: in which a connection sends the head of its next request, and reads the end of an answer.
      body_seconds: in which the body of a request comes.
      request_seconds: in which a request is answered, the wait for its turn included.
      drain_seconds: that running requests have after SIGTERM.
      waiting: the texts that may wait beside those that the engine decodes at once.
      connections: that may be open at once.
    """

    body_bytes: int = 8 << 20
    header_seconds: float = 20.0
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    drain_seconds: float = 30.0
    waiting: int = 256
    connections: int = 20_000

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("body_bytes", "header_seconds", "body_seconds", "request_seconds", "connections"):
            if not getattr(self, name) > 0:
                yield name, f"must be above 0, got {getattr(self, name)}"
        for name in ("drain_seconds", "waiting"):
            if getattr(self, name) < 0:
                yield name, f"must be 0 or more, got {getattr(self, name)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """The model behind a server.

    Attributes:
      name: its name in the interface.
      tokenizer: its tokenizer.
      context_length: the most tokens of a text.
      stop_tokens: ids that end a text, beside the end of a document.
      chat: makes prompts of messages; None for a model without a chat template.
      created: the time at which it was loaded, in seconds since 1970.
      encoder: the encoder that reads prompts, whose answers are other texts; None for a model that continues them.
      longest_source: the most tokens of such a prompt.
    """

    name: str
    tokenizer: Tokenizer
    context_length: int
    stop_tokens: tuple[int, ...] = ()
    chat: ChatPrompts | None = None
    created: int = 0
    encoder: Encoder | None = None
    longest_source: int = 0

    @functools.cached_property
    def constraints(self) -> Constraints:
        """The constraints of its tokens."""
        return Constraints(self.tokenizer)

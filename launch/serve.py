r"""Serves a model over HTTP, in the interface of OpenAI, and a page to chat in.

    python -m launch.serve --run=runs/llama-1b
    python -m launch.serve --run=runs/llama-1b --host=0.0.0.0 --port=8000 --api_key=SECRET
    python -m launch.serve --run=runs/llama-1b --set=engine.speculation='NGram(tokens=4)'
    python -m launch.serve --run=runs/llama-8b --draft=runs/llama-1b
    python -m launch.serve --run=runs/deepseek --set=engine.speculation='Modules()'

/v1/completions, /v1/chat/completions, /v1/models, /tokenize, /detokenize, /health, /metrics (Prometheus), and the page
at /. A model read from a Hugging Face folder brings its chat template. The server is for this machine alone unless
--host says otherwise, which needs a key; $CAIRN_API_KEY hides it from the list of processes. SIGTERM or Ctrl-C: new
requests get status 503, and running ones have --drain_timeout seconds. With an encoder a prompt is a source, and the
answer is the target alone. Needs `pip install 'cairn-lm[serve]'`.
"""

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.command import cli, engine_flags
from model.errors import UserError

if TYPE_CHECKING:
    from model.inference.engine.engine import Engine
    from model.inference.engine.options import EngineOptions
    from train.serving.parameters.options import Limits

RUN = cli.define_path("run", None, "The run folder.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Which checkpoint: latest, best, or the number of its step.")
PORT = flags.DEFINE_integer("port", 8000, "The port; 0 takes a free one.", lower_bound=0, upper_bound=65535)
HOST = flags.DEFINE_string("host", "127.0.0.1", "The address to listen on; 0.0.0.0 for all of this machine.")
API_KEY = flags.DEFINE_string("api_key", None, "The key that clients must send; when not given, $CAIRN_API_KEY.")
MODEL_NAME = flags.DEFINE_string("model_name", None, "The model's name for clients; when not given, the run folder's.")
CHAT_TEMPLATE = cli.define_path(
    "chat_template", None, "A Jinja file that makes prompts of messages, in place of the tokenizer's own."
)
ROWS = flags.DEFINE_integer("rows", 16, "The most texts that are drawn at once; others wait.")
TOKENS_PER_STEP = flags.DEFINE_integer("tokens_per_step", 128, "The most tokens that a step reads, prompts included.")
CACHE_TOKENS = flags.DEFINE_integer(
    "cache_tokens", None, "The tokens that the cache holds, of all texts together; when not given, as memory allows."
)
MAX_WAITING = flags.DEFINE_integer("max_waiting", 256, "The most texts that wait; more get status 429.")
REQUEST_TIMEOUT = flags.DEFINE_float("request_timeout", 600.0, "Seconds that an answer may take, its wait included.")
DRAIN_TIMEOUT = flags.DEFINE_float("drain_timeout", 30.0, "Seconds that running requests have after SIGTERM.")
MAX_BODY = flags.DEFINE_integer("max_body", 8 << 20, "The most bytes of a request's body.")
MESH = cli.define_mesh()
ENGINE = engine_flags.define_engine()


def main(argv: list[str]) -> int:
    """Reads the flags and serves until a signal."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags look like --run=runs/llama-1b")
    if RUN.value is None:
        raise UserError("--run is missing: which model? Try --run=runs/quickstart")
    _check_packages()
    api_key, limits, options = _api_key(), _limits(), _engine_options()
    cli.prepare_jax()
    from model.inference.engine.engine import Engine
    from train.generation.text_engine import TextEngine
    from train.generation.worker import EngineWorker
    from train.run.loading import load_run
    from train.serving.app import Application
    from train.serving.served import served_of
    from train.serving.server import Server, listen

    with listen(HOST.value, PORT.value) as listener:  # before the model is read: a port may be taken
        run = load_run(RUN.value, CHECKPOINT.value, mesh=cli.mesh_from_flag(MESH))
        served = served_of(
            run,
            name=MODEL_NAME.value,
            chat_template=CHAT_TEMPLATE.value,
            created=int(time.time()),
            source_tokens=options.source_tokens,
        )
        draft = engine_flags.draft_of(ENGINE, run)
        engine = Engine(run.experiment.model, run.params, options, layout=run.layout, draft=draft)
        capacity = engine.capacity
        print(
            f"the cache holds {capacity.tokens:,} tokens in {capacity.cache_bytes / 1e6:,.1f} MB; a text may have "
            f"{capacity.longest_text:,}, and {options.rows} are drawn at once{capacity.describe_sources()}",
            file=sys.stderr,
        )
        _compile(engine)
        worker = EngineWorker(TextEngine(engine, run.tokenizer), options.rows + limits.waiting)
        server = Server(Application(served, worker, limits, api_key=api_key), worker, limits)
        worker.on_failure = server.drain
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        what = "chat and completions" if served.chat else "completions; the run has no chat template"
        server.run_on(listener, lambda: print(f"serving {served.name} at http://{shown}:{port} ({what})", flush=True))
    if worker.failure is not None:
        raise worker.failure
    return 0


def _compile(engine: "Engine") -> None:
    """Compiles all programs of an engine and shows how far it is."""
    from train.terminal.progress import Progress

    with contextlib.ExitStack() as stack:
        bars: list[Progress] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress("compile", total)))
            bars[0].update(done)

        engine.compile(show)


def _check_packages() -> None:
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"serving needs the package {error.name}: pip install 'cairn-lm[serve]', or, in a checkout, "
            "pip install -e '.[serve]'"
        ) from None


def _api_key() -> str | None:
    """The key of --api_key or the environment. Raises UserError where one is needed and there is none."""
    from train.serving.parameters.options import LOCAL_HOSTS

    key = API_KEY.value or os.environ.get("CAIRN_API_KEY") or None
    if key is None and HOST.value not in LOCAL_HOSTS:
        raise UserError(
            f"--host={HOST.value} lets other machines in, which needs a key: give --api_key=..., or set "
            f"CAIRN_API_KEY; without a key, {LOCAL_HOSTS[0]} is for this machine alone"
        )
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
        raise UserError("--api_key holds a character that no HTTP header can have; use letters and digits")
    return key


def _limits() -> "Limits":
    from model.options.tree import find_problems
    from train.serving.parameters.options import Limits

    named: dict[str, flags.FlagHolder[Any]] = {
        "body_bytes": MAX_BODY,
        "request_seconds": REQUEST_TIMEOUT,
        "drain_seconds": DRAIN_TIMEOUT,
        "waiting": MAX_WAITING,
    }
    limits = Limits(**{field: flag.value for field, flag in named.items()})
    for problem in find_problems(limits):
        field, _, words = problem.partition(": ")
        raise UserError(f"--{named[field].name}: {words}")
    return limits


def _engine_options() -> "EngineOptions":
    from model.inference.engine.options import EngineOptions

    named: dict[str, flags.FlagHolder[Any]] = {
        "rows": ROWS,
        "tokens_per_step": TOKENS_PER_STEP,
        "cache_tokens": CACHE_TOKENS,
    }
    given = EngineOptions(**{field: flag.value for field, flag in named.items()})
    return engine_flags.engine_options(ENGINE, given, {field: flag.name for field, flag in named.items()})


if __name__ == "__main__":
    cli.run(main)

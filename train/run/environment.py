"""The environment of a run: code, packages, machine, devices. RUN/environment.json lists an entry for every start."""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import socket
import subprocess
import sys
from typing import Any

from train.files.files import cannot_read, move_replacing, parse_json, write_json
from train.files.paths import AnyPath, literal_path

# Packages whose version can change a number or a speed; packages that are not installed are left out.
_PACKAGES = (
    "jax jaxlib libtpu jax-cuda12-plugin jax-cuda12-pjrt jax-cuda13-plugin jax-cuda13-pjrt nvidia-cudnn-cu12 "
    "nvidia-cudnn-cu13 flax optax orbax-checkpoint tensorstore grain array-record sentencepiece tokenizers tokamax "
    "numpy scipy ml-dtypes safetensors absl-py rich matplotlib tensorboardX wandb"
)

# Variables that change the results, or where they are computed. A list, not the whole environment, which holds people's
# secrets.
_VARIABLES = (
    "XLA_FLAGS LIBTPU_INIT_ARGS JAX_PLATFORMS JAX_ENABLE_X64 JAX_DEFAULT_MATMUL_PRECISION JAX_DEFAULT_PRNG_IMPL "
    "JAX_THREEFRY_PARTITIONABLE JAX_COMPILATION_CACHE_DIR JAX_NUM_CPU_DEVICES XLA_PYTHON_CLIENT_MEM_FRACTION "
    "XLA_PYTHON_CLIENT_PREALLOCATE CUDA_VISIBLE_DEVICES NVIDIA_TF32_OVERRIDE NCCL_DEBUG OMP_NUM_THREADS"
)

MAX_DIFF_CHARACTERS = 1_000_000  # characters of `git diff` that are kept


def record_session(run_folder: str | pathlib.Path) -> int:
    """Adds an entry for this start to RUN/environment.json; returns its number, 1 for the first start.

    A damaged file is kept as environment.json.damaged. Raises UserError for a file that cannot be read. Call it on the
    first process only.
    """
    path = pathlib.Path(run_folder) / "environment.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sessions = read_sessions(run_folder)
    if not sessions and path.exists():
        move_replacing(path, path.with_name("environment.json.damaged"))
    sessions.append({"session": len(sessions) + 1} | describe_session())
    write_json(path, sessions)
    return len(sessions)


def read_sessions(run_folder: str | AnyPath) -> list[dict[str, Any]]:
    """The entries of RUN/environment.json, one for every start; empty when there is none or it is damaged.

    Raises UserError when it cannot be read.
    """
    path = literal_path(run_folder) / "environment.json"
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    except OSError as error:
        raise cannot_read(path, error) from error
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def describe_session() -> dict[str, Any]:
    """The entry for this process, as JSON values. Starts JAX's backend if nothing has yet."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.executable), *sys.orig_argv[1:]],
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": {
            "name": socket.gethostname(),
            "cpu": cpu_model(),
            "cpus": os.cpu_count(),
            "memory_bytes": host_memory(),
        },
        "packages": package_versions(),
        "devices": _devices(),
        "variables": {name: os.environ[name] for name in _VARIABLES.split() if name in os.environ},
        "git": git_state(pathlib.Path(__file__).resolve().parents[2]),
    }


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that can change a result."""
    versions = {}
    for name in _PACKAGES.split():
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str:
    """The name of the processor, as the system gives it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:  # Linux alone has this file
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def host_memory() -> int | None:
    """The bytes of memory of this machine, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _devices() -> dict[str, Any]:
    import jax

    devices = jax.devices()
    return {
        "backend": jax.default_backend(),
        "kind": devices[0].device_kind,
        "count": len(devices),
        "processes": jax.process_count(),
    }


# ---------------------------------------------------------------------------------------------------------- git


def git_state(folder: pathlib.Path) -> dict[str, Any]:
    """The revision of the code in a folder, and how the working tree differs from it.

    `revision` is None, and `why` says so, where there is no git, no repository, or no commit, or where the repository
    around the folder is another project's (the code is installed inside it and not tracked by it). `diff` holds the
    changes to tracked files up to `MAX_DIFF_CHARACTERS` characters, `untracked` the names of new files.
    """
    unknown = {"revision": None, "dirty": None}
    try:
        tracked = _git(folder, "ls-files", "--error-unmatch", "--", ".")
        if tracked.returncode:
            return unknown | {"why": (tracked.stderr.strip() or "git failed").splitlines()[0]}
        head = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
        if head.returncode:
            return unknown | {"why": "the repository has no commit yet"}
        branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD").stdout.strip()
        diff = _git(folder, "diff", "--no-ext-diff", "--no-color", "HEAD", "--", ".").stdout
        new = _git(folder, "ls-files", "--others", "--exclude-standard").stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        return unknown | {"why": f"git did not run: {error}"}
    state: dict[str, Any] = {"revision": head.stdout.strip(), "branch": branch, "dirty": bool(diff or new)}
    state |= {"diff": diff[:MAX_DIFF_CHARACTERS], "untracked": new[:1000]}
    if len(diff) > MAX_DIFF_CHARACTERS:
        state["diff_cut_at"] = MAX_DIFF_CHARACTERS
    return state


def _git(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=20,
        check=False,
        # Without optional locks nothing in the repository is written; without a prompt nothing waits for a person.
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
    )

"""Flags of the XLA compiler that training sets on each kind of device, each with its reason and source.

They are set before jax starts, beside those that the user has set, which stay as they are. A flag that the installed
compiler does not know would end the process, so it is left out. The environment of the run records what was set.
"""

import contextlib
import dataclasses
import glob
import importlib.util
import mmap
import os
import pathlib
from collections.abc import MutableMapping


@dataclasses.dataclass(frozen=True)
class XlaFlag:
    """A flag.

    Attributes:
      name, value: of the flag.
      reason: why training sets it.
      source: the public page that says so.
    """

    name: str
    value: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


_LEVELS = "https://openxla.org/xla/gpu_optimization_levels"
_PIPELINED = "a scan gathers or reduces for the next layer while it computes this one, in place of between two layers"

# By platform. None for CPUs, where no flag was measured to make a step faster. None for TPUs: asynchronous gathers, as
# https://openxla.org/xla/flags_guidance suggests them, are the default by now; its pipelined gathers
# (xla_tpu_enable_ici_ag_pipelining and two others) hold the parameters of a further layer, for which launch.plan does
# not account (a peak of 9.07 in place of 8.86 GiB a chip: LLaMA-2 7B, v5p:4x4x4, batch 4, compiled), and their gain in
# time was not measured.
FLAGS: dict[str, tuple[XlaFlag, ...]] = {
    "cpu": (),
    "gpu": (
        XlaFlag(
            "xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "starts collectives early and waits for them late, so that they run beside products",
            _LEVELS,
        ),
        XlaFlag("xla_gpu_enable_pipelined_all_gather", "true", _PIPELINED, _LEVELS),
        XlaFlag("xla_gpu_enable_pipelined_all_reduce", "true", _PIPELINED, _LEVELS),
        XlaFlag("xla_gpu_enable_pipelined_reduce_scatter", "true", _PIPELINED, _LEVELS),
        XlaFlag(
            "xla_gpu_enable_dus_accumulator_zero_init_elimination",
            "true",
            "a scan over layers does not fill with zeros what its steps write whole (2.4% of a step, see benchmarks)",
            "https://github.com/openxla/xla/blob/main/xla/xla.proto",
        ),
    ),
    "tpu": (),
}
# The variable that each platform's compiler reads, and the libraries that hold the names of its flags.
_VARIABLES = {"cpu": "XLA_FLAGS", "gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
_LIBRARIES = {"gpu": ("jaxlib", "libjax_common.so"), "tpu": ("libtpu", "libtpu.so")}


def set_flags(environment: MutableMapping[str, str], platform: str) -> list[XlaFlag]:
    """Adds the flags of a platform to the variables of a process whose jax has not started; returns those it added.

    Leaves out flags that the user has set and flags that the installed compiler does not know.
    """
    variable = _VARIABLES.get(platform, "")
    given = environment.get(variable, "")
    named = {word.lstrip("-").partition("=")[0] for word in given.split()}
    wanted = [flag for flag in FLAGS.get(platform, ()) if flag.name not in named]
    known = _known_names(platform, [flag.name for flag in wanted])
    added = [flag for flag in wanted if flag.name in known]
    if added:
        environment[variable] = " ".join([*given.split(), *map(str, added)])
    return added


def platform_here(environment: MutableMapping[str, str]) -> str:
    """The platform that jax will take on this machine, told without starting it: "cpu", "gpu" or "tpu"."""
    if named := environment.get("JAX_PLATFORMS", "").split(",")[0].strip():
        return {"cuda": "gpu"}.get(named, named)
    if importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        return "tpu"
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if any(importlib.util.find_spec(name) for name in plugins) and os.path.exists("/dev/nvidiactl"):
        return "gpu"
    return "cpu"


def describe(platform: str, added: list[XlaFlag]) -> list[str]:
    """Lines for the log."""
    if not added:
        return []
    return [f"compiler flags for {platform} ({_VARIABLES[platform]}): {' '.join(map(str, added))}"]


def _known_names(platform: str, names: list[str]) -> set[str]:
    """Those names of flags that the installed compiler contains."""
    if not names:
        return set()
    package, library = _LIBRARIES[platform]
    with contextlib.suppress(OSError, ValueError):
        spec = importlib.util.find_spec(package)
        for folder in [] if spec is None else spec.submodule_search_locations or []:
            with (
                open(pathlib.Path(folder) / library, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                return {name for name in names if content.find(name.encode()) >= 0}
    return set()

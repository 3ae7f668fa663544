"""Flags of the compiler: the user's stay, unknown ones are left out, and the environment of a run has them."""

import os
import subprocess
import sys

import pytest

from train.parallel import xla_flags
from train.parallel.xla_flags import FLAGS, describe, platform_here, set_flags
from train.run.environment import describe_session

LATENCY = "xla_gpu_enable_latency_hiding_scheduler"


def test_flags_are_added_to_those_of_the_user_who_keeps_theirs():
    environment = {"XLA_FLAGS": f"--xla_dump_to=/tmp/x --{LATENCY}=false"}
    added = set_flags(environment, "gpu")
    assert [flag.name for flag in added] == [flag.name for flag in FLAGS["gpu"] if flag.name != LATENCY]
    assert environment["XLA_FLAGS"].split()[:2] == ["--xla_dump_to=/tmp/x", f"--{LATENCY}=false"]
    assert environment["XLA_FLAGS"].split()[2:] == [str(flag) for flag in added]
    assert set_flags(environment, "gpu") == []  # a second time there is nothing left to add
    (line,) = describe("gpu", added)
    assert line.startswith("compiler flags for gpu (XLA_FLAGS): --xla_gpu_enable_pipelined_all_gather=true --xla")


def test_a_cpu_gets_none():
    environment = {}
    assert set_flags(environment, "cpu") == describe("cpu", []) == set_flags(environment, "unknown") == []
    assert environment == {}


def test_the_compiler_of_tpus_reads_a_variable_of_its_own(monkeypatch):
    flag = xla_flags.XlaFlag(LATENCY, "true", "", "")
    monkeypatch.setitem(FLAGS, "tpu", (flag,))
    monkeypatch.setitem(xla_flags._LIBRARIES, "tpu", xla_flags._LIBRARIES["gpu"])
    environment = {"XLA_FLAGS": f"--{LATENCY}=false"}
    assert set_flags(environment, "tpu") == [flag]
    assert environment == {"XLA_FLAGS": f"--{LATENCY}=false", "LIBTPU_INIT_ARGS": f"--{LATENCY}=true"}


def test_a_flag_that_the_installed_compiler_does_not_know_is_left_out(monkeypatch):
    """XLA ends a process at an unknown flag."""
    unknown = xla_flags.XlaFlag("xla_gpu_no_such_flag", "true", "", "")
    monkeypatch.setitem(FLAGS, "gpu", (unknown, *FLAGS["gpu"][:1]))
    assert [flag.name for flag in set_flags({}, "gpu")] == [LATENCY]
    monkeypatch.setitem(xla_flags._LIBRARIES, "gpu", ("jaxlib", "no_such_library.so"))
    assert set_flags({}, "gpu") == []
    monkeypatch.setitem(xla_flags._LIBRARIES, "gpu", ("no_such_package", "no_such_library.so"))
    assert set_flags({}, "gpu") == []


def test_the_compiler_takes_the_flags_of_gpus():
    """The library of CPUs and GPUs is one; it ends the process at a flag or a value that it does not know."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(map(str, FLAGS["gpu"]))}
    program = "import jax; jax.numpy.zeros(3).block_until_ready(); print('compiled')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "compiled\n", done.stderr


def test_every_flag_has_a_reason_and_a_public_page():
    for flag in (flag for flags in FLAGS.values() for flag in flags):
        assert flag.source.startswith("https://"), flag
        assert len(flag.reason.split()) > 3, flag


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({"JAX_PLATFORMS": "cpu"}, "cpu"), ({"JAX_PLATFORMS": "cuda,cpu"}, "gpu"), ({"JAX_PLATFORMS": "tpu"}, "tpu")],
)
def test_the_platform_that_the_user_names(variables, expected):
    assert platform_here(variables) == expected


@pytest.mark.parametrize(
    ("packages", "devices", "expected"),
    [
        ({"libtpu"}, ["/dev/accel0"], "tpu"),
        ({"libtpu"}, [], "cpu"),  # installed to plan
        (set(), ["/dev/accel0"], "cpu"),
        ({"jax_cuda12_plugin"}, ["/dev/nvidiactl"], "gpu"),
        ({"jax_cuda12_plugin"}, [], "cpu"),
        (set(), ["/dev/nvidiactl"], "cpu"),
    ],
)
def test_the_platform_of_a_machine_is_that_of_its_devices_and_packages(packages, devices, expected, monkeypatch):
    monkeypatch.setattr(xla_flags.importlib.util, "find_spec", lambda name: name in packages or None)
    monkeypatch.setattr(xla_flags.glob, "glob", lambda pattern: [d for d in devices if d.startswith(pattern[:10])])
    monkeypatch.setattr(xla_flags.os.path, "exists", lambda path: path in devices)
    assert platform_here({}) == expected


def test_the_environment_of_a_run_has_the_flags(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_enable_ici_ag_pipelining=true")
    assert describe_session()["variables"]["LIBTPU_INIT_ARGS"] == "--xla_tpu_enable_ici_ag_pipelining=true"

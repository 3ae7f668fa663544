"""The host's memory: what is freed is kept, so that the next step touches no new page."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""

LARGE_BLOCK = """
import numpy as np
from train.host import keep_freed_memory
keep_freed_memory()
use = lambda: np.ones(1_200_000_000, np.uint8)  # more than a threshold, which is an int of 1 GiB at most, lets glibc keep
"""

# As every command starts; the sorted copy of 128 MiB is a temporary buffer of the compiled program.
JITTED = """
import jax, jax.numpy as jnp
from launch.cli import prepare_jax
prepare_jax()
x = jnp.ones((1 << 22, 8))
step = jax.jit(lambda x: jnp.sort(x + 1, axis=-1)[:, 0].sum())
use = lambda: float(step(x))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting exists in glibc only")
@pytest.mark.parametrize("program", [LARGE_BLOCK, JITTED], ids=["large block", "jitted"])
def test_memory_is_used_again_without_page_faults(program):
    small_pages = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}  # a huge page is one fault for 2 MiB
    command = [sys.executable, "-c", program + COUNT]
    done = subprocess.run(command, env=small_pages, capture_output=True, text=True, check=True)
    first, *_, last = map(int, done.stdout.split())
    assert first > 1_000
    assert last < 100

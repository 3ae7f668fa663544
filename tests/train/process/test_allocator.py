"""The host's memory: freed blocks are kept, so that the next step touches no new page, or given back at once."""

import os
import platform
import statistics
import subprocess
import sys

import pytest

COUNT = """
import resource
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""

LARGE_BLOCK = """
import numpy as np
from train.process.allocator import keep_freed_memory
keep_freed_memory()
use = lambda: np.ones(1_200_000_000, np.uint8)  # more than a threshold, which is an int of 1 GiB at most, lets glibc keep
"""

# As every command starts; the sorted copy of 64 MiB is a temporary buffer of the compiled program.
JITTED = """
import jax, jax.numpy as jnp
from launch.command.cli import prepare_jax
prepare_jax()
x = jnp.ones((1 << 21, 8))
step = jax.jit(lambda x: jnp.sort(x + 1, axis=-1)[:, 0].sum())
use = lambda: float(step(x))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting exists in glibc only")
@pytest.mark.parametrize(
    "program", [LARGE_BLOCK, pytest.param(JITTED, marks=pytest.mark.sweep)], ids=["large block", "jitted"]
)
def test_memory_is_used_again_without_page_faults(program):
    small_pages = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}  # a huge page is one fault for 2 MiB
    command = [sys.executable, "-c", program + COUNT]
    done = subprocess.run(command, env=small_pages, capture_output=True, text=True, check=True)
    first, *later = map(int, done.stdout.split())
    assert first > 1_000
    # XLA may run a program on another thread, whose first block is new.
    assert statistics.median(later) < 100


THREADS = """
import threading
import numpy as np
from train.process.allocator import return_freed_memory
return_freed_memory()

def held():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])

def use():
    small = []
    for _ in range(8):
        large = [np.ones(4 << 20, np.uint8) for _ in range(4)]
        small.append(np.ones(1000))  # lies behind the large ones where all are from one heap
        del large

before = held()
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting exists in glibc only")
def test_memory_that_threads_have_freed_is_given_back():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # of some 120,000 KiB that their heaps would keep

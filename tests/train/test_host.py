"""The host's memory: what is freed is kept, so that the next step touches no new page."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from train.host import keep_freed_memory

keep_freed_memory()
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.ones(1_200_000_000, np.uint8)  # more than a threshold of 1 GiB lets glibc keep
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting exists in glibc only")
def test_a_large_block_is_reused_without_page_faults():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, *later = map(int, done.stdout.split())
    assert first > 1_000
    assert max(later) < 100

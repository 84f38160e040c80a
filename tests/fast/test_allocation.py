"""Memory that glibc keeps: page faults of blocks that are taken and given back again and again."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from trocr.fast.allocation import keep_freed_memory
keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for round in range(24):
    if round == 4:
        before = faults()
    blocks = [torch.ones(700_000) for _ in range(4)]
    del blocks
print(faults() - before)
"""

PLAIN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("MALLOC", "LD_", "GLIBC", "THP"))
}


def faults_of_kept_blocks():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=PLAIN, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the rule is glibc's")
def test_blocks_are_kept():
    page = os.sysconf("SC_PAGE_SIZE")
    pages = 20 * 4 * 2_800_000 // page  # of the blocks that are counted
    assert faults_of_kept_blocks() < pages // 50  # without the call all of them, at most starts of Python


def test_the_block_itself_takes_no_memory():
    resource = pytest.importorskip("resource")
    from trocr.fast.allocation import LARGEST, keep_freed_memory

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    keep_freed_memory.__wrapped__()
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        < LARGEST // os.sysconf("SC_PAGE_SIZE") // 20
    )

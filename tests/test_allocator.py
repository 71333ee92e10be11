"""Freed memory is kept: a process that trains stops faulting pages in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from convcraft.training.allocator import keep_freed_memory
took_effect = keep_freed_memory() if sys.argv[1] == "keep" else None
def work():
    activations = [torch.ones(megabytes << 18) for megabytes in (1, 3, 7, 3, 40, 1)]  # float32: four bytes each
    del activations  # as at the end of a training step
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(took_effect, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(mode: str, **environment: str) -> tuple[str, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    took_effect, faults = done.stdout.split()
    return took_effect, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_blocks_are_reused() -> None:
    _, usual = run("as it is")
    took_effect, kept = run("keep")
    assert took_effect == "True"
    # A round touches 55 MB, 14,000 pages; how many of them are new depends on how the blocks happen to fit.
    assert kept * 4 < usual


def test_a_users_own_setting_is_left_alone() -> None:
    took_effect, _ = run("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert took_effect == "False"

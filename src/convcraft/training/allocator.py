"""Memory that the C library keeps instead of giving it back to the system between two training steps.

Every step allocates and frees the same activations. glibc hands out large blocks as fresh pages of the system and
returns them when they are freed, so that every step faults thousands of pages in again: a third of the time of a small
network on a CPU (docs/training.md, "Memory between steps"). Told to keep freed blocks, it reuses warm pages.
"""

from __future__ import annotations

import ctypes
import os
import platform

# Names and numbers of <malloc.h>; settings that a user has made by environment variables win.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
USERS_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")

LARGEST_KEPT_BYTES = (1 << 30, 32 << 20)  # larger blocks still return to the system; older versions take the second
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for reuse, for the rest of this process.

    The process then holds its peak until it ends. Other C libraries, and users who have set their own allocator or its
    thresholds, are left alone.

    Returns:
        whether the setting took effect.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in USERS_SETTINGS):
        return False
    libc = ctypes.CDLL(None)  # the library that this process runs on
    kept = any(libc.mallopt(M_MMAP_THRESHOLD, size_bytes) for size_bytes in LARGEST_KEPT_BYTES)
    return bool(libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)) and kept

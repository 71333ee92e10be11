"""Threads over chunks of images: what makes NumPy use several cores where BLAS alone cannot.

NumPy lets go of Python's lock inside its loops, so Python threads can work on different images at once. Each needs BLAS
to itself: BLAS's own threads would fight for the same cores, and on small matrices cost more than they bring.

    use_threads(2)                                   # off (1) until somebody asks
    over_images(convolve_some, num_images=64, images_per_chunk=8)

How the images are cut does not depend on the number of threads, and results are summed in order: one thread and many
give the same numbers, bit for bit.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from convcraft.scratch.checks import Array, refuse

Result = TypeVar("Result")

# What a chunk of images may touch. Less, and Python's own lock costs more than the caches save; more, and large maps
# leave the caches.
CHUNK_BYTES = 4 << 20
SET_THREADS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")
GET_THREADS = ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads")

_pool: ThreadPoolExecutor | None = None
_here = threading.local()  # .busy: this thread works on a chunk already
_blas_threads_before: int | None = None


def use_threads(number: int) -> bool:
    """Work on `number` chunks at a time from now on, each with one thread of BLAS; 1 is NumPy as it comes.

    Args:
        number: threads, at least 1; more than the machine's cores is of no use.

    Returns:
        whether BLAS could be told. False: another BLAS than OpenBLAS; set its own variable before Python starts
        (MKL_NUM_THREADS=1, VECLIB_MAXIMUM_THREADS=1).
    """
    global _pool, _blas_threads_before
    if number < 1:
        raise refuse(f"{number} threads", "at least 1", "os.cpu_count() says how many the machine has.")
    if _pool is not None:
        _pool.shutdown()
    _pool = ThreadPoolExecutor(number, "scratch") if number > 1 else None
    if number > 1 and _blas_threads_before is None:
        _blas_threads_before = blas_threads()
        return set_blas_threads(1)
    if number == 1 and _blas_threads_before is not None:
        before, _blas_threads_before = _blas_threads_before, None
        return set_blas_threads(before)
    return blas_threads() is not None


def over_images(
    function: Callable[[slice], Result], num_images: int, images_per_chunk: int | None = None
) -> list[Result]:
    """function(slice of images) for all chunks, in threads if there are any; the results in the order of the images.

    Args:
        images_per_chunk: None makes as many chunks as there are threads: only for functions whose results do not
            depend on how the images are cut (element by element).
    """
    threads = 1 if _pool is None else _pool._max_workers
    size = images_per_chunk or max(1, -(-num_images // threads))
    starts = range(0, max(1, num_images), size)  # no images are one empty chunk, whose results have their shapes
    chunks = [slice(start, min(start + size, num_images)) for start in starts]
    if _pool is None or len(chunks) == 1 or getattr(_here, "busy", False):
        return [function(chunk) for chunk in chunks]

    def in_thread(chunk: slice) -> Result:
        _here.busy = True  # chunks of chunks would wait for the threads that they keep busy
        try:
            return function(chunk)
        finally:
            _here.busy = False

    return list(_pool.map(in_thread, chunks))


def sum_in_order(parts: list[Array]) -> Array:
    """The sum of arrays of one shape, first to last, so that it is the same every time."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def images_per_chunk(bytes_per_image: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """How many images make a chunk, at least one."""
    return max(1, chunk_bytes // max(1, bytes_per_image))


def blas_threads() -> int | None:
    """Threads of NumPy's BLAS, or None where it cannot be asked."""
    function = _openblas(GET_THREADS)
    return None if function is None else int(function())


def set_blas_threads(number: int) -> bool:
    """Whether NumPy's BLAS could be told to use so many threads."""
    function = _openblas(SET_THREADS)
    if function is None:
        return False
    function(number)
    return True


def _openblas(names: tuple[str, ...]) -> Callable[..., int] | None:
    """The first of these functions that the OpenBLAS inside NumPy's wheel has."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for file in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(file))  # already loaded by NumPy: the same one, not a second
            for name in names:
                if hasattr(library, name):
                    function: Callable[..., int] = getattr(library, name)
                    return function
    return None

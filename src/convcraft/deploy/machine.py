"""Which machine and which versions computed something: what was checked on one says nothing of another."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor_name() -> str:
    """As the system calls it; its features decide what some runtimes compute."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def fingerprint(package: str) -> dict[str, str | int | None]:
    """Everything besides a bundle that decides its answers: the machine, the runtime `package`, the decoder."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: package_version(name) for name in ("convcraft", "numpy", "pillow", package)},
    }

"""Which machine and which versions computed something: what was checked on one says nothing of another."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """As the system calls it; its features decide what some runtimes compute.

    On ARM, Linux gives no name but numbers of the maker and of the design: "ARM 0x41 0xd0c", one pair for each kind of
    core.
    """
    if cpuinfo.exists():
        lines = [line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()]
        entries = [(name.strip(), value.strip()) for name, _, value in lines]
        named = [value for name, value in entries if name == "model name"]
        makers = [value for name, value in entries if name == "CPU implementer"]
        designs = [value for name, value in entries if name == "CPU part"]
        if makers and designs:
            kinds = sorted({f"{maker} {design}" for maker, design in zip(makers, designs, strict=False)})
            return f"ARM {', '.join(kinds)}"
        if named:
            return named[0]
    return platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(*packages: str) -> dict[str, str]:
    """Of Python, convcraft, what decodes pictures, and `packages`; without those that are not installed.

    Says nothing of the machine, so that it can travel with a bundle.
    """
    found = {name: package_version(name) for name in ("convcraft", "numpy", "pillow", *packages)}
    return {"python": platform.python_version(), **{name: given for name, given in found.items() if given is not None}}


def fingerprint(package: str) -> dict[str, str | int | None]:
    """Everything besides a bundle that decides its answers: the machine, the runtime `package`, the decoder, and timm,
    which builds the networks of some bundles. Stays on the machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        **versions(package, "timm"),
    }

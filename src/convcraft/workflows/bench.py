"""`convcraft bench`: runs a committed measurement of the source tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from convcraft.errors import UserError

NOT_BENCHMARKS = {"keras_train_speed", "measured_on", "readme_table"}  # helpers of the scripts


def _folder() -> Path:
    """benchmarks/ of the source tree that this package was installed from, or of the present folder."""
    for root in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (root / "benchmarks" / "results").is_dir():
            return root / "benchmarks"
    fix = "Clone the project, install it with pip install -e, and call this in the clone."
    raise UserError("no benchmarks folder", "a source tree of convcraft", fix)


def list_benchmarks() -> list[str]:
    """The scripts' names."""
    return sorted(path.stem for path in _folder().glob("*.py") if path.stem not in NOT_BENCHMARKS)


def run_benchmark(name: str) -> int:
    """Run one script with this Python; returns its exit code."""
    if name not in list_benchmarks():
        raise UserError(f"benchmark {name!r}", "one of " + ", ".join(list_benchmarks()), "See convcraft bench.")
    folder = _folder()
    return subprocess.run([sys.executable, str(folder / f"{name}.py")], cwd=folder.parent, check=False).returncode

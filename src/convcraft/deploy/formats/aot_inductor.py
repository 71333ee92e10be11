"""AOTInductor: the network compiled to machine code for processors like the one that exported it; run by torch.

The compiler writes paths of this machine into the library, for messages of failed assertions. They are overwritten, and
the sources, which a finished library does not need, are left out. On macOS a library that was changed has to be signed
again; that part has not been tried.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.archive import ZIP_TIME
from convcraft.deploy.formats import pt2
from convcraft.deploy.formats.form import Files, Format, Runtime, Session
from convcraft.deploy.privacy import masked
from convcraft.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from convcraft.deploy.export_network import ExportNetwork

COMPILERS = ("c++", "g++", "clang++")
SETTINGS = {
    "freezing": True,  # weights are laid out for the processor once and for all
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.debug_symbols": False,
}
SOURCES, LIBRARIES = (".cpp", ".h", ".o"), (".so", ".dylib", ".pyd", ".dll")


def write(network: ExportNetwork, images: NDArray[np.generic], precision: str) -> dict[str, bytes]:
    """model.pt2 with a shared library in it.

    Raises:
        UserError: there is no C++ compiler.
    """
    if not any(map(shutil.which, COMPILERS)):
        fix = "Install one (Debian and Ubuntu: apt install g++), or choose another format."
        raise UserError("aot-inductor without a C++ compiler", f"one of {', '.join(COMPILERS)}", fix)
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / pt2.FILE
        program = pt2.exported(network.for_torch(precision))
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=SETTINGS)
        return {pt2.FILE: without_origin(path.read_bytes())}


def without_origin(package: bytes) -> bytes:
    """The package without sources and without paths of this machine."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as archive, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as clean:
        for entry in archive.infolist():
            if not entry.filename.endswith(SOURCES):
                content = archive.read(entry)
                library = entry.filename.endswith(LIBRARIES)
                clean.writestr(
                    zipfile.ZipInfo(entry.filename, ZIP_TIME), _clean_library(content) if library else content
                )
    return stream.getvalue()


def _clean_library(content: bytes) -> bytes:
    changed = masked(content)
    if changed == content or sys.platform != "darwin":
        return changed
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "library"
        path.write_bytes(changed)
        subprocess.run(["codesign", "--force", "--sign", "-", str(path)], check=True, capture_output=True)
        return path.read_bytes()


def open_session(files: Files, precision: str, runtime: Runtime) -> Session:
    """The library is unpacked beside other temporary files while it is loaded, then removed."""
    import torch

    from convcraft.deploy.formats.torch_session import torch_session

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / pt2.FILE
        path.write_bytes(files[pt2.FILE])
        compiled = torch._inductor.aoti_load_package(str(path))

    def network(images: Tensor) -> Any:
        return compiled(images)

    return torch_session(network, runtime)


FORMAT = Format(
    name="aot-inductor",
    description="machine code for processors like this one, run by torch",
    files=(pt2.FILE,),
    precisions=("float32", "bfloat16"),
    package="torch",
    base=False,
    native_code=True,
    write=write,
    check=pt2.check,
    open=open_session,
)

"""AOTInductor: the network compiled to machine code for processors like the one that exported it; run by torch."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats import pt2
from convcraft.deploy.formats.form import Files, Format, Runtime, Session
from convcraft.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from convcraft.deploy.export_network import ExportNetwork

COMPILERS = ("c++", "g++", "clang++")


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
        torch._inductor.aoti_compile_and_package(pt2.exported(network), package_path=str(path))
        return {pt2.FILE: path.read_bytes()}


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
    precisions=("float32",),
    package="torch",
    base=False,
    native_code=True,
    write=write,
    check=pt2.check,
    open=open_session,
)

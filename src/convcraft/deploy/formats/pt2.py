"""torch.export's program, for those who go on in PyTorch (C++, ExecuTorch, compilers); run by torch.

Its archive holds pickled sample inputs, and torch reads sizes in it with sympy, which evaluates text: a program of an
unknown maker can run code, so that it counts as native code.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats.form import Files, Format, Runtime, Session
from convcraft.errors import UserError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from convcraft.deploy.export_network import ExportNetwork

FILE = "model.pt2"
MARK = b"pt2"
# What a node tells of the code that it was traced from, paths of files included; nothing runs by it.
ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "fwd_source_fn_stack", "from_node", "torch_fn")


def write(network: ExportNetwork, images: NDArray[np.generic], precision: str) -> dict[str, bytes]:
    """model.pt2; any batch size."""
    import torch

    plain = network.for_torch(precision).to(memory_format=torch.contiguous_format)  # as torch.export.save wants weights
    stream = io.BytesIO()
    torch.export.save(exported(plain), stream)
    return {FILE: stream.getvalue()}


def exported(network: ExportNetwork) -> ExportedProgram:
    """The network as torch.export has it, with batches of any size, and without where its code stood."""
    import torch

    program = torch.export.export(network, (network.example(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for entry in ORIGINS:
                    node.meta.pop(entry, None)
    return program


def check(files: Files) -> None:
    check_archive(files[FILE], FILE)


def check_archive(data: bytes, file: str) -> None:
    """That it is an archive of torch.export. What is in it is for the maker's word: `Format.native_code`.

    Raises:
        UserError: another file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            marks = [name for name in archive.namelist() if name.endswith("/archive_format")]
            sound = bool(marks) and archive.getinfo(marks[0]).file_size < 100 and archive.read(marks[0]) == MARK
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, RuntimeError):
        sound = False
    if not sound:
        raise UserError(f"{file} is no archive of torch.export", "a program as it was exported", "Export it again.")


def open_session(files: Files, precision: str, runtime: Runtime) -> Session:
    import torch

    from convcraft.deploy.formats.torch_session import torch_session

    program = torch.export.load(io.BytesIO(files[FILE])).module()
    return torch_session(program.to(memory_format=torch.channels_last), runtime)


FORMAT = Format(
    name="pt2",
    description="torch.export's program, for going on in PyTorch",
    files=(FILE,),
    precisions=("float32", "bfloat16"),
    package="torch",
    base=False,
    native_code=True,
    write=write,
    check=check,
    open=open_session,
)

"""The formats by name. A new one is a file of its own and a line here."""

from __future__ import annotations

import difflib
from importlib import import_module

from convcraft.deploy.formats.form import Format
from convcraft.errors import UserError

FORMATS = ("onnx", "openvino", "safetensors", "pt2", "aot-inductor")


def find_format(name: str) -> Format:
    """
    Raises:
        UserError: there is no such format; close names are listed.
    """
    if name not in FORMATS:
        near = difflib.get_close_matches(name.lower(), FORMATS, n=3)
        fix = f"Did you mean {' or '.join(near)}?" if near else "Choose one of these."
        raise UserError(f"format {name!r}", f"one of {', '.join(FORMATS)}", fix)
    found: Format = import_module(f"convcraft.deploy.formats.{name.replace('-', '_')}").FORMAT
    return found

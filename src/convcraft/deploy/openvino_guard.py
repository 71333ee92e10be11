"""Whether an OpenVINO network (XML and numbers) may reach OpenVINO: read here without it, and nothing is run.

What it refuses, and why:

- Declarations (`<!`): entities that grow without bound or name other files. OpenVINO writes none.
- Layers of other sets than OpenVINO's own, which a library would have to bring; whole networks inside of a layer
  (TensorIterator, Loop, If) and memory between calls (ReadValue, Assign), which no classifier needs.
- Constants whose place is not inside the file of numbers, or whose bytes are not as many as their shape says: OpenVINO
  adds offset and size without looking for an overflow.
- Text and file names among the attributes of a layer.

What it cannot promise: how long a well-formed network computes and how much memory it takes.

Source: IR version 10 and 11 as OpenVINO 2026.4 writes them and reads them (src/core/xml_util).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from convcraft.deploy.refusal import Refused, kind_of, named, shown

MAX_XML_BYTES = 4 << 20  # EfficientNet-B0 in int8 has 0.5 MB, 1,143 layers and about 12,000 elements
MAX_ELEMENTS = 150_000
MAX_LAYERS = 10_000
MAX_DEPTH = 32
MAX_ATTRIBUTES = 64  # of one element
MAX_DIMENSIONS = 16
VERSIONS = ("10", "11")
OPERATOR_SET = re.compile(r"opset\d{1,2}", re.ASCII)
SIZE = re.compile(r"\d{1,18}", re.ASCII)
DECLARATION = re.compile(rb"""<\?xml version=["']1\.0["']( encoding=["'][Uu][Tt][Ff]-8["'])? ?\?>\s*""")
NETWORK_PARTS = ("layers", "edges", "rt_info", "meta_data", "quantization_parameters")
LAYER_PARTS = ("data", "input", "output", "rt_info")
WITH_NETWORKS = ("tensoriterator", "loop", "if")
WITH_MEMORY = ("readvalue", "assign")
CONSTANT = "Const"
TEXT_TYPE = "string"
PATH_MARKS = ("/", "\\")
# Types whose numbers are packed without gaps, by bits.
BITS = {
    "boolean": 8, "u1": 1, "u2": 2, "u4": 4, "i4": 4, "nf4": 4, "f4e2m1": 4, "u8": 8, "i8": 8, "f8e4m3": 8, "f8e5m2": 8,
    "f8e8m0": 8, "u16": 16, "i16": 16, "f16": 16, "bf16": 16, "u32": 32, "i32": 32, "f32": 32, "u64": 64, "i64": 64,
    "f64": 64,
}  # fmt: skip


def check_openvino(xml: bytes, weights: bytes, file: str) -> None:
    """Refuse a network that must not reach OpenVINO.

    Args:
        xml: the whole .xml file. weights: the whole .bin file. file: the name of the .xml, for the message.

    Raises:
        UserError: anything of the list above, or damage.
    """
    with named(file):
        network = _parsed(xml)
        if network.tag != "net" or network.get("version") not in VERSIONS:
            raise Refused(
                f"is no OpenVINO network of version {' or '.join(VERSIONS)}", "a network as OpenVINO saves it"
            )
        parts = _parts(network, NETWORK_PARTS, "the network")
        layers = parts.get("layers", Element("layers"))
        if not 0 < len(layers) <= MAX_LAYERS:
            raise Refused(f"has {len(layers):,} layers", f"1 to {MAX_LAYERS:,}")
        for layer in layers:
            _check_layer(layer, len(weights))


def _parsed(xml: bytes) -> Element:
    if len(xml) > MAX_XML_BYTES:
        raise Refused(f"has {len(xml):,} bytes of XML", f"at most {MAX_XML_BYTES:,}")
    # OpenVINO's reader guesses other encodings from the first bytes; in UTF-8 nothing can hide from the searches below.
    if b"\0" in xml or not _is_utf8(xml):
        raise Refused(f"is no text in UTF-8{kind_of(xml)}", "XML as OpenVINO saves it")
    declared = DECLARATION.match(xml)
    body = xml[declared.end() :] if declared else xml
    for mark, what in ((b"<!", "a declaration or a comment"), (b"<?", "an instruction or another encoding")):
        if mark in body:
            raise Refused(f"holds {what}", "elements alone, as OpenVINO writes them")
    if not body.startswith(b"<net"):
        raise Refused(
            f"is no OpenVINO network{'' if body.startswith(b'<') else kind_of(xml)}", "one as OpenVINO saves it"
        )
    try:
        root: Element = ElementTree.fromstring(body, ElementTree.XMLParser(target=_BoundedTree()))
    except ElementTree.ParseError as error:
        raise Refused(f"is no XML ({error})", "an undamaged file") from error
    return root


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class _BoundedTree(ElementTree.TreeBuilder):
    """Gives up as soon as there are too many elements, or too many in one another."""

    def __init__(self) -> None:
        super().__init__()
        self._num_elements = self._depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._num_elements += 1
        self._depth += 1
        if self._num_elements > MAX_ELEMENTS or self._depth > MAX_DEPTH or len(attrs) > MAX_ATTRIBUTES:
            limits = f"at most {MAX_ELEMENTS:,} elements, {MAX_DEPTH} in one another, {MAX_ATTRIBUTES} attributes each"
            raise Refused("has too many elements or attributes", limits)
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def _parts(element: Element, known: tuple[str, ...], where: str) -> Mapping[str, Element]:
    """The children by name: known ones, each at most once (readers take the first and pass over the rest)."""
    found: dict[str, Element] = {}
    for child in element:
        if child.tag not in known or child.tag in found:
            how = "twice" if child.tag in found else "which does not belong there"
            raise Refused(f"has {shown(child.tag)} in {where}, {how}", f"each of {', '.join(known)} once")
        found[child.tag] = child
    return found


def _check_layer(layer: Element, num_weights_bytes: int) -> None:
    kind, version, where = layer.get("type", ""), layer.get("version", ""), f"the layer {shown(layer.get('name', ''))}"
    if layer.tag != "layer" or not kind:
        raise Refused(f"has {shown(layer.tag)} among its layers", "layers with a type")
    if not OPERATOR_SET.fullmatch(version):
        raise Refused(
            f"uses {shown(kind)} of {shown(version)} in {where}", "operators of OpenVINO's own sets (opset1 and on)"
        )
    if kind.lower() in (*WITH_NETWORKS, *WITH_MEMORY):  # OpenVINO does not tell capitals from small letters
        what = "a network inside of a layer" if kind.lower() in WITH_NETWORKS else "memory between calls"
        raise Refused(f"uses {shown(kind)} in {where}: {what}", "a network whose layers compute once")
    data = _parts(layer, LAYER_PARTS, where).get("data")
    attributes = data.attrib if data is not None else {}
    for name, value in attributes.items():
        if any(mark in value for mark in PATH_MARKS):
            raise Refused(f"has {name} = {shown(value)} in {where}", "no file names")
    if kind.lower() in ("const", "constant") or {"offset", "size"} <= attributes.keys():
        _check_constant(kind, attributes, num_weights_bytes, where)
    if TEXT_TYPE in (attributes.get("element_type"), attributes.get("destination_type")):
        raise Refused(f"has text in {where}", "numbers alone")


def _check_constant(kind: str, attributes: Mapping[str, str], num_weights_bytes: int, where: str) -> None:
    element_type = attributes.get("element_type", "")
    if kind != CONSTANT or "value" in attributes or element_type not in BITS:
        found = (
            f"has a constant of the type {shown(element_type)} in {where}, stored in a way that OpenVINO does not write"
        )
        raise Refused(found, "numbers in the file of weights")
    shape_text = attributes.get("shape", "")
    if shape_text.count(",") >= MAX_DIMENSIONS:
        raise Refused(f"has {shape_text.count(',') + 1:,} dimensions in {where}", f"at most {MAX_DIMENSIONS}")
    shape = [_size(text.strip(" "), where) for text in shape_text.split(",")] if shape_text else []
    offset, size = (_size(attributes.get(name, ""), where) for name in ("offset", "size"))
    if offset + size > num_weights_bytes:
        found = f"reads the bytes {offset:,} to {offset + size:,} in {where}"
        raise Refused(found, f"places inside the {num_weights_bytes:,} bytes of weights")
    expected = -(-prod(shape) * BITS[element_type] // 8)
    if size != expected:
        sizes = " x ".join(map(str, shape)) or "one number"
        raise Refused(f"has {sizes} of {element_type} in {size:,} bytes in {where}", f"{expected:,} bytes")


def _size(text: str, where: str) -> int:
    if not SIZE.fullmatch(text):
        raise Refused(f"has the size {shown(text)} in {where}", "a whole number from 0 on")
    return int(text)

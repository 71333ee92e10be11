"""Whether an ONNX file may reach a runtime: its bytes are read here without onnx, and nothing of them is run.

What it refuses, and why:

- Numbers kept in other files (external data), anywhere: a location may name any file of the machine, and ONNX Runtime
  also reads `*/_ORT_MEM_ADDR_/*` as an address in memory. CVE-2022-25882, CVE-2024-27318, CVE-2025-51480.
- Operators outside of ONNX's own and of a list of ONNX Runtime's: others run the code of a library, or open files by
  name, as EPContext does.
- Loop, Scan and SequenceMap: how often they repeat is not known before they run. If is allowed (torch.cond writes it);
  its branches are checked like the network itself, and nothing in them repeats.
- What `onnx_messages` leaves out, among it the file's own functions.
- Tensors whose shape is not that of their bytes, text in place of numbers, settings for a session (`ort_config`), and
  files that ONNX Runtime would take for its own format, which it looks for first.

What it cannot promise: how long a well-formed network computes and how much memory it takes. An operator may make a
tensor of any size from a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from convcraft.deploy.onnx_messages import MODEL
from convcraft.deploy.protobuf import Message, decode
from convcraft.deploy.refusal import Refused, kind_of, named, shown

MAX_FILE_BYTES = (1 << 31) - 1  # of a Protocol Buffers message
MAX_DEPTH = 32  # messages in one another; a branch of an If adds three
MAX_FIELDS = 500_000  # EfficientNet-B0 as torch exports it without optimising has 26,699
MAX_NODES = 20_000
MAX_DIMENSIONS = 16
MAX_SIZE = (1 << 31) - 1  # of one dimension
MAX_NUMBERS = 1 << 40  # of one tensor, counting a dimension of 0 as 1

STANDARD = ("", "ai.onnx")
CLASSICAL = "ai.onnx.ml"
MICROSOFT = "com.microsoft"
REPEATING = ("Loop", "Scan", "SequenceMap")
BRANCHING = "If"
BRANCHES = ("then_branch", "else_branch")
# What ONNX Runtime's quantiser (QDQ and QOperator) and its graph optimiser write for networks of convolutions.
MICROSOFT_OPERATORS = frozenset((
    "BiasAdd", "BiasGelu", "BiasSoftmax", "DequantizeLinear", "DynamicQuantizeMatMul", "FastGelu", "FusedConv",
    "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "GroupNorm", "MatMulInteger16",
    "MatMulIntegerToFloat", "MatMulNBits", "NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "QGemm", "QLinearAdd",
    "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
    "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QuantizeLinear",
    "QuickGelu", "SkipGroupNorm", "SkipLayerNormalization", "TransposeMatMul",
))  # fmt: skip
SETTINGS_KEY = "ort_config"

# By AttributeProto.AttributeType.
ATTRIBUTE_FIELDS = dict(enumerate(("f", "i", "s", "t", "g", "floats", "ints", "strings", "tensors"), start=1))


@dataclass(frozen=True)
class NumberType:
    """A TensorProto.DataType.

    bits: of one number. stored: the field that holds the numbers where they are not raw. entry_bits: how many of them
    one entry of that field holds: 8 of two 4-bit numbers, 32 of half a complex one.
    """

    name: str
    bits: int
    stored: str = "int32_data"
    entry_bits: int = 0  # 0: one number per entry

    def num_bytes(self, count: int) -> int:
        return -(-count * self.bits // 8)

    def num_entries(self, count: int) -> int:
        return -(-count * self.bits // (self.entry_bits or self.bits))


TEXT_TYPE = 8
NUMBER_TYPES: Mapping[int, NumberType] = {
    1: NumberType("float32", 32, "float_data"),
    2: NumberType("uint8", 8),
    3: NumberType("int8", 8),
    4: NumberType("uint16", 16),
    5: NumberType("int16", 16),
    6: NumberType("int32", 32),
    7: NumberType("int64", 64, "int64_data"),
    9: NumberType("bool", 8),
    10: NumberType("float16", 16),
    11: NumberType("float64", 64, "double_data"),
    12: NumberType("uint32", 32, "uint64_data"),
    13: NumberType("uint64", 64, "uint64_data"),
    14: NumberType("complex64", 64, "float_data", 32),
    15: NumberType("complex128", 128, "double_data", 64),
    16: NumberType("bfloat16", 16),
    17: NumberType("float8_e4m3fn", 8),
    18: NumberType("float8_e4m3fnuz", 8),
    19: NumberType("float8_e5m2", 8),
    20: NumberType("float8_e5m2fnuz", 8),
    21: NumberType("uint4", 4, entry_bits=8),
    22: NumberType("int4", 4, entry_bits=8),
    23: NumberType("float4_e2m1", 4, entry_bits=8),
    24: NumberType("float8_e8m0", 8),
    25: NumberType("uint2", 2, entry_bits=8),
    26: NumberType("int2", 2, entry_bits=8),
}
DATA_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class ValueFacts:
    """An input or output. shape: a number, a name, or None where the file says neither; None as a whole likewise."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class OnnxFacts:
    """What an accepted file says of itself.

    opsets: versions by domain. inputs: without initializers that are also listed as inputs. metadata: the model's
    metadata_props. initializer_bytes: of the tensors of the network and of its branches as they lie in memory.
    """

    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    metadata: Mapping[str, str]
    num_nodes: int
    num_initializers: int
    initializer_bytes: int


def check_onnx(data: bytes, file: str) -> OnnxFacts:
    """Refuse a file that must not reach a runtime.

    Args:
        data: the whole file. file: its name, for the message.

    Raises:
        UserError: no ONNX model, damaged, or anything of the list above.
    """
    with named(file):
        if len(data) > MAX_FILE_BYTES:
            raise Refused(f"has {len(data):,} bytes", "an ONNX file of less than 2 GiB")
        if data[4:8] == b"ORTM":
            raise Refused(f"is no ONNX model{kind_of(data)}", "an ONNX model")
        try:
            model = decode(data, MODEL, max_depth=MAX_DEPTH, max_fields=MAX_FIELDS)
        except ValueError as error:
            found = f"cannot be taken as an ONNX model ({error}){kind_of(data)}"
            raise Refused(found, "an ONNX model of numbers and operators alone") from error
        return _model_facts(model)


def _model_facts(model: Message) -> OnnxFacts:
    if not model.get("graph", {}).get("node") or model.get("ir_version", 0) < 1:
        raise Refused("holds no network", "an ONNX model with operators")
    metadata = _entries(model)
    if SETTINGS_KEY in metadata:
        raise Refused("brings settings for ONNX Runtime (ort_config)", "a network alone")
    graph, count = model["graph"], _Count()
    inputs = tuple(_value_facts(value, "input") for value in graph.get("input", ()))
    outputs = tuple(_value_facts(value, "output") for value in graph.get("output", ()))
    _check_graph(graph, count)
    initialised = {tensor.get("name", "") for tensor in graph.get("initializer", ())}
    return OnnxFacts(
        ir_version=model["ir_version"],
        opsets=_opsets(model),
        producer=f"{model.get('producer_name', '')} {model.get('producer_version', '')}".strip(),
        inputs=tuple(value for value in inputs if value.name not in initialised),
        outputs=outputs,
        metadata=metadata,
        num_nodes=count.nodes,
        num_initializers=count.initializers,
        initializer_bytes=count.initializer_bytes,
    )


def _entries(message: Message) -> dict[str, str]:
    return {entry.get("key", ""): entry.get("value", "") for entry in message.get("metadata_props", ())}


def _opsets(model: Message) -> dict[str, int]:
    """A domain that no node uses does no harm: ONNX Runtime's optimiser lists all that it knows."""
    opsets: dict[str, int] = {}
    for entry in model.get("opset_import", ()):
        domain = entry.get("domain", "")
        if domain in opsets or entry.get("version", 0) < 1:
            raise Refused(f"imports the operators {shown(domain)} twice or in no version", "one version for each")
        opsets[domain] = entry["version"]
    return opsets


@dataclass
class _Count:
    nodes: int = 0
    initializers: int = 0
    initializer_bytes: int = 0


def _check_graph(graph: Message, count: _Count) -> None:
    """A network, or a branch of an If in it."""
    names: set[str] = set()
    for tensor in graph.get("initializer", ()):
        name = tensor.get("name", "")
        if name in names:
            raise Refused(f"holds the tensor {shown(name)} twice", "each tensor once")
        names.add(name)
        count.initializers += 1
        count.initializer_bytes += _check_tensor(tensor, f"the tensor {shown(name)}")
    for value in (*graph.get("input", ()), *graph.get("output", ()), *graph.get("value_info", ())):
        if "type" in value:
            _value_facts(value, "value")
    count.nodes += len(graph.get("node", ()))
    if count.nodes > MAX_NODES:
        raise Refused(f"has over {MAX_NODES:,} operators", f"at most {MAX_NODES:,}")
    for node in graph.get("node", ()):
        _check_node(node, count)


def _check_node(node: Message, count: _Count) -> None:
    operator, domain = node.get("op_type", ""), node.get("domain", "")
    _check_operator(operator, domain, node)
    for attribute in node.get("attribute", ()):
        where = f"the attribute {shown(attribute.get('name', ''))} of {shown(node.get('name', '') or operator)}"
        _check_attribute_kind(attribute, where)
        for tensor in _tensors_of(attribute):
            _check_tensor(tensor, where)
        if "g" in attribute:
            if operator != BRANCHING or domain not in STANDARD or attribute.get("name") not in BRANCHES:
                raise Refused(f"has a network in {where}", "such inside of If alone")
            _check_graph(attribute["g"], count)


def _check_operator(operator: str, domain: str, node: Message) -> None:
    known = domain in (*STANDARD, CLASSICAL) or (domain == MICROSOFT and operator in MICROSOFT_OPERATORS)
    if not known or not operator or node.get("overload"):
        found = f"uses the operator {shown(operator)} of {shown(domain)}"
        raise Refused(found, "operators of ONNX itself, or those that ONNX Runtime's quantiser and optimiser write")
    if operator in REPEATING:
        raise Refused(f"uses {operator}, which may repeat for ever", "a network without loops")


def _check_attribute_kind(attribute: Message, where: str) -> None:
    """One value of the kind that the attribute says, so that no reader takes up another."""
    wanted = ATTRIBUTE_FIELDS.get(attribute.get("type", 0))
    held = [name for name in ATTRIBUTE_FIELDS.values() if name in attribute]
    if wanted is None or held not in ([], [wanted]):
        found = f"has {where} of kind {attribute.get('type', 0)} with {', '.join(held) or 'no value'}"
        raise Refused(found, "one value of that kind")


def _tensors_of(attribute: Message) -> Iterator[Message]:
    if "t" in attribute:
        yield attribute["t"]
    yield from attribute.get("tensors", ())


def _check_tensor(tensor: Message, where: str) -> int:
    """Its numbers lie in the file, as many as its shape says. Returns how many bytes they take."""
    if tensor.get("external_data") or tensor.get("data_location", 0):
        place = next((entry.get("value", "") for entry in tensor.get("external_data", ())), "")
        raise Refused(f"keeps the numbers of {where} elsewhere ({shown(place)})", "one file that holds all of them")
    kind = _number_type(tensor.get("data_type", 0), where)
    shape = tensor.get("dims", [])
    count = _count_numbers(shape, where)
    held = [name for name in DATA_FIELDS if name in tensor]
    if held == ["raw_data"]:
        expected, found, unit = kind.num_bytes(count), len(tensor["raw_data"]), "bytes"
    else:
        expected, found, unit = kind.num_entries(count), tensor.get(kind.stored, 0), "numbers"
        if held not in ([], [kind.stored]):
            raise Refused(f"has {where} of {kind.name} in {', '.join(held)}", f"its numbers in {kind.stored} alone")
    if found != expected:
        sizes = " x ".join(map(str, shape)) or "one number"
        raise Refused(f"has {where}, {sizes} of {kind.name}, with {found:,} {unit}", f"{expected:,} {unit}")
    return kind.num_bytes(count)


def _number_type(number: int, where: str) -> NumberType:
    if number == TEXT_TYPE:
        raise Refused(f"has text in {where}", "numbers alone")
    if number not in NUMBER_TYPES:
        raise Refused(f"has {where} of the unknown type {number}", "a known type of numbers")
    return NUMBER_TYPES[number]


def _count_numbers(shape: list[int], where: str) -> int:
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size <= MAX_SIZE for size in shape):
        sizes = " x ".join(map(str, shape[:MAX_DIMENSIONS]))
        raise Refused(f"has {where} of the shape {sizes}", f"at most {MAX_DIMENSIONS} sizes from 0 to {MAX_SIZE:,}")
    if prod(max(size, 1) for size in shape) > MAX_NUMBERS:  # where one size is 0, the others are bound as well
        raise Refused(f"has {where} of the shape {' x '.join(map(str, shape))}", f"at most {MAX_NUMBERS:,} numbers")
    return prod(shape)


def _value_facts(value: Message, role: str) -> ValueFacts:
    name = value.get("name", "")
    where = f"the {role} {shown(name)}"
    tensor = value.get("type", {}).get("tensor_type")
    if tensor is None:
        raise Refused(f"has {where} that is no tensor", "tensors")
    kind = _number_type(tensor.get("elem_type", 0), where)
    if "shape" not in tensor:
        return ValueFacts(name, kind.name, None)
    shape = [_size(dimension, where) for dimension in tensor["shape"].get("dim", ())]
    _count_numbers([size for size in shape if isinstance(size, int)], where)
    return ValueFacts(name, kind.name, tuple(shape))


def _size(dimension: Message, where: str) -> int | str | None:
    size: int | str | None = dimension.get("dim_value", dimension.get("dim_param"))
    if "dim_value" in dimension and "dim_param" in dimension:
        raise Refused(f"has {where} with a size of two values", "one value for each size")
    return size

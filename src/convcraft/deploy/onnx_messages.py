"""The messages of an ONNX file, as far as a convolutional network needs them.

Refused on purpose: functions of the file's own (torch's exporter inlines all of them, with and without optimisation;
nested ones grow without bound when a runtime inlines them), sparse tensors (a few bytes that a runtime unpacks to any
size), sequences, maps and optional values, training, and how a network is shared out over devices.

Source: onnx.proto of ONNX 1.23 (IR version 14).
"""

from __future__ import annotations

from convcraft.deploy.protobuf import Field, Kind, Schema

TEXT, BYTES, INT32, INT64 = Kind.TEXT, Kind.BYTES, Kind.INT32, Kind.INT64

ENTRY = Schema("StringStringEntryProto", {1: Field("key", TEXT), 2: Field("value", TEXT)})
METADATA = Field("metadata_props", ENTRY, repeated=True)

TENSOR = Schema(
    "TensorProto",
    {
        1: Field("dims", INT64, repeated=True),
        2: Field("data_type", INT32),
        4: Field("float_data", Kind.FLOATS, repeated=True),
        5: Field("int32_data", Kind.VARINTS, repeated=True),
        6: Field("string_data", BYTES, repeated=True),
        7: Field("int64_data", Kind.VARINTS, repeated=True),
        8: Field("name", TEXT),
        9: Field("raw_data", BYTES),
        10: Field("double_data", Kind.DOUBLES, repeated=True),
        11: Field("uint64_data", Kind.VARINTS, repeated=True),
        12: Field("doc_string", TEXT),
        13: Field("external_data", ENTRY, repeated=True),
        14: Field("data_location", INT64),
        16: METADATA,
    },
    refused={3: "a segment of a tensor"},
)

DIMENSION = Schema(
    "Dimension", {1: Field("dim_value", INT64), 2: Field("dim_param", TEXT), 3: Field("denotation", TEXT)}
)
SHAPE = Schema("TensorShapeProto", {1: Field("dim", DIMENSION, repeated=True)})
TENSOR_TYPE = Schema("Tensor", {1: Field("elem_type", INT32), 2: Field("shape", SHAPE)})
TYPE = Schema(
    "TypeProto",
    {1: Field("tensor_type", TENSOR_TYPE), 6: Field("denotation", TEXT)},
    refused={4: "a sequence", 5: "a map", 7: "an opaque value", 8: "a sparse tensor", 9: "an optional value"},
)
VALUE_INFO = Schema(
    "ValueInfoProto", {1: Field("name", TEXT), 2: Field("type", TYPE), 3: Field("doc_string", TEXT), 4: METADATA}
)

GRAPH = Schema("GraphProto", {})  # filled below: an attribute can hold a graph

ATTRIBUTE = Schema(
    "AttributeProto",
    {
        1: Field("name", TEXT),
        2: Field("f", Kind.BITS32),
        3: Field("i", INT64),
        4: Field("s", BYTES),
        5: Field("t", TENSOR),
        6: Field("g", GRAPH),
        7: Field("floats", Kind.FLOATS, repeated=True),
        8: Field("ints", Kind.VARINTS, repeated=True),
        9: Field("strings", BYTES, repeated=True),
        10: Field("tensors", TENSOR, repeated=True),
        13: Field("doc_string", TEXT),
        20: Field("type", INT64),
    },
    refused={
        11: "several networks",
        14: "a type",
        15: "types",
        21: "a reference to a function's attribute",
        22: "a sparse tensor",
        23: "sparse tensors",
    },
)

NODE = Schema(
    "NodeProto",
    {
        1: Field("input", TEXT, repeated=True),
        2: Field("output", TEXT, repeated=True),
        3: Field("name", TEXT),
        4: Field("op_type", TEXT),
        5: Field("attribute", ATTRIBUTE, repeated=True),
        6: Field("doc_string", TEXT),
        7: Field("domain", TEXT),
        8: Field("overload", TEXT),
        9: METADATA,
    },
    refused={10: "devices"},
)

ANNOTATION = Schema(
    "TensorAnnotation",
    {1: Field("tensor_name", TEXT), 2: Field("quant_parameter_tensor_names", ENTRY, repeated=True)},
)

GRAPH.fields.update(
    {
        1: Field("node", NODE, repeated=True),
        2: Field("name", TEXT),
        5: Field("initializer", TENSOR, repeated=True),
        10: Field("doc_string", TEXT),
        11: Field("input", VALUE_INFO, repeated=True),
        12: Field("output", VALUE_INFO, repeated=True),
        13: Field("value_info", VALUE_INFO, repeated=True),
        14: Field("quantization_annotation", ANNOTATION, repeated=True),
        16: METADATA,
    }
)
GRAPH.refused[15] = "sparse tensors"

OPSET = Schema("OperatorSetIdProto", {1: Field("domain", TEXT), 2: Field("version", INT64)})

MODEL = Schema(
    "ModelProto",
    {
        1: Field("ir_version", INT64),
        2: Field("producer_name", TEXT),
        3: Field("producer_version", TEXT),
        4: Field("domain", TEXT),
        5: Field("model_version", INT64),
        6: Field("doc_string", TEXT),
        7: Field("graph", GRAPH),
        8: Field("opset_import", OPSET, repeated=True),
        14: METADATA,
    },
    refused={20: "training", 25: "functions of its own", 26: "devices"},
)

"""Which layer of a keras.applications network is which of ours: ResNet50 and 101, and MobileNetV2 (timm's).

Their branches make the order of layers in a file differ from ours, so layers are matched by the names that Keras gives
them. VGG16 and VGG19 are plain stacks and need no names. What differs, and how it is brought over:
- Keras's ResNets have the stride in the first 1x1 convolution of a block, as the paper: ours need strided="1x1";
- their convolutions have biases, which batch norm takes off again: they are subtracted from its mean;
- MobileNetV2 pads as TensorFlow does: timm's network needs pad_type="same".
The published weights of the VGGs and ResNets want blue, green, red, as Caffe had it: `card_of_keras` knows those files
by their checksum. Others get their order of channels from a card beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from convcraft.data.download import content_hash
from convcraft.errors import UserError
from convcraft.models.cards import Card
from convcraft.models.keras_file import read_kernel_shapes

# Published by Keras: MD5 of the file with classifier, as keras.applications checks it -> our network.
PUBLISHED = {
    "64373286793e3c8b2b4e3219cbf3544b": "vgg16",
    "cbe5617147190e668d6c5d5026f83318": "vgg19",
    "2cb95161c43110f7111970584f804107": "resnet50",
    "f1aeb4b969a6efcfb50fad2f0c20cfc5": "resnet101",
}
CAFFE_MEAN = (123.68, 116.779, 103.939)  # red, green, blue, of pixels in 0..255; not scaled afterwards
MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)  # blocks in timm's blocks.0 ... blocks.6
# Maps that the last block of Keras's MobileNetV2 leaves, for each of its published widths -> timm's network.
MOBILENETS = {
    112: "mobilenetv2_035",
    160: "mobilenetv2_050",
    240: "mobilenetv2_075",
    320: "mobilenetv2_100",
    448: "mobilenetv2_140",
}
LAST_PROJECTION = "block_16_project"
USUAL_SIZE = (224, 224)  # pixels, where a file does not say
CLASSIFIER = "classifier"  # what a rule says instead of the name of our last layer
PLAIN_LAYERS = {"InputLayer", "ZeroPadding2D", "Conv2D", "DepthwiseConv2D", "BatchNormalization", "Activation", "ReLU",
                "Add", "MaxPooling2D", "GlobalAveragePooling2D", "Dropout", "Dense"}  # fmt: skip

_RESNET_LAYER = re.compile(r"conv(?P<stage>[2-5])_block(?P<block>\d+)_(?P<place>[0-3])_(?P<kind>conv|bn)")
_MOBILENET_LAYER = re.compile(
    r"(?:block_(?P<block>\d+)|expanded_conv)_(?P<place>expand|depthwise|project)(?P<norm>_BN)?"
)


@dataclass(frozen=True)
class Application:
    """A network of keras.applications, known by the names of its layers."""

    name: str
    epsilon: float  # of its batch norms
    momentum: float  # of its batch norms, as Keras counts: the share of the old statistics that stays
    relu_limit: float | None  # the highest value that its ReLUs let pass
    model_args: Mapping[str, Any]  # what our network needs in order to compute the same

    def our_name(self, theirs: str) -> str | None:
        """The module that a layer becomes; None for a layer that the network does not have."""
        rule = _resnet_name if self.name == "ResNet" else _mobilenet_name
        return rule(theirs)


RESNET = Application("ResNet", epsilon=1.001e-5, momentum=0.99, relu_limit=None, model_args={"strided": "1x1"})
MOBILENET_V2 = Application("MobileNetV2", epsilon=1e-3, momentum=0.999, relu_limit=6.0, model_args={"pad_type": "same"})


def application_of(layer_names: Sequence[str]) -> Application | None:
    """The application that a file's layers belong to, or None: then order and kinds must do."""
    if "conv2_block1_1_conv" in layer_names:
        return RESNET
    return MOBILENET_V2 if "expanded_conv_depthwise" in layer_names else None


def _resnet_name(theirs: str) -> str | None:
    if theirs in ("conv1_conv", "conv1_bn"):
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[theirs]
    found = _RESNET_LAYER.fullmatch(theirs)
    if found is None:
        return None
    block = f"layer{int(found['stage']) - 1}.{int(found['block']) - 1}"
    if found["place"] == "0":
        return f"{block}.downsample.{0 if found['kind'] == 'conv' else 1}"
    return f"{block}.{found['kind']}{found['place']}"


def _mobilenet_name(theirs: str) -> str | None:
    ends = {"Conv1": "conv_stem", "bn_Conv1": "bn1", "Conv_1": "conv_head", "Conv_1_bn": "bn2"}
    found = _MOBILENET_LAYER.fullmatch(theirs)
    if found is None:
        return ends.get(theirs)
    block = int(found["block"] or 0)
    places = ["expand", "depthwise", "project"] if block else ["depthwise", "project"]
    convolutions = ["conv_pw", "conv_dw", "conv_pwl"] if block else ["conv_dw", "conv_pw"]
    stage = 0
    while stage < len(MOBILENET_STAGES) - 1 and block >= MOBILENET_STAGES[stage]:
        block -= MOBILENET_STAGES[stage]
        stage += 1
    if found["place"] not in places:
        return None
    number = places.index(found["place"])
    return f"blocks.{stage}.{block}.{f'bn{number + 1}' if found['norm'] else convolutions[number]}"


def check_application(
    file_name: str, application: Application, description: Sequence[Mapping[str, Any]], model: nn.Module
) -> None:
    """Refuse a network of ours that computes something else with the same weights.

    Args:
        file_name: for messages.
        description: the file's layers as Keras describes them; empty where the file has numbers alone.
        model: the network that is to take the weights.

    Raises:
        UserError: strides, padding or layers differ (the first difference is named).
    """
    if application is RESNET:
        stride = getattr(_module(model, "layer2.0.conv1"), "stride", None)
        same = stride == (2, 2)
    else:
        same = type(_module(model, "conv_stem")).__name__ == "Conv2dSame"
    if not same:
        argument = ", ".join(f"{name}: {value}" for name, value in application.model_args.items())
        networks = "resnet50 or resnet101" if application is RESNET else "mobilenetv2_100"
        fix = f"Choose {networks} with model.args {argument}: there Keras's network differs from the usual ones."
        raise UserError(f"{file_name} is of Keras's {application.name}", f"a network with {argument}", fix)
    try:
        for entry in description:
            _check_layer(file_name, application, entry, model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"{file_name}: its description of the layers is damaged ({error!r})"
        raise UserError(found, "a description as Keras writes it", "Save the file again.") from error


def _check_layer(file_name: str, application: Application, entry: Mapping[str, Any], model: nn.Module) -> None:
    """One described layer: known, and with the settings of our module."""
    kind, config = entry["class_name"], entry["config"]
    where = f"{file_name}: layer {config['name']} ({kind})"
    if kind not in PLAIN_LAYERS:
        raise UserError(where, f"the layers of Keras's {application.name}", "This kind of layer is not known here.")
    if kind in ("Conv2D", "DepthwiseConv2D"):
        module = _module(model, application.our_name(config["name"]) or "")
        stride = tuple(config.get("strides", (1, 1)))
        if module is not None and stride != module.stride:
            raise UserError(f"{where} has stride {stride}", f"{module.stride}", "Choose the network it was saved from.")
    activation = config.get("activation", "linear")
    usual = ("relu",) if kind == "Activation" else ("linear", "softmax") if kind == "Dense" else ("linear",)
    if activation not in usual:
        raise UserError(f"{where} has the activation {activation}", " or ".join(usual), "Rebuild it.")
    if kind == "ReLU" and config.get("max_value") != application.relu_limit:
        raise UserError(f"{where} stops at {config.get('max_value')}", f"{application.relu_limit}", "Rebuild it.")


def _module(model: nn.Module, name: str) -> Any:
    return dict(model.named_modules()).get(name)


def card_of_keras(path: Path) -> Card | None:
    """The card of a file that Keras published, known by its checksum; None for all others."""
    architecture = PUBLISHED.get(content_hash(path, "md5"))
    if architecture is None:
        return None
    return Card(
        architecture=architecture,
        num_classes=1000,
        model_args=dict(RESNET.model_args) if architecture.startswith("resnet") else {},
        input_size=(3, 224, 224),
        mean=tuple(value / 255 for value in CAFFE_MEAN),
        std=(1 / 255,) * 3,
        interpolation="bilinear",
        crop_pct=0.875,
        label_names=None,
        channel_order="bgr",
        origin="Keras's preprocess_input for this file, with the papers' size and crop",
    )


def usual_card_of_keras(path: Path) -> Card | None:
    """What Keras feeds the network of a file without a card, known by its layers: MobileNetV2; None for all others.

    Files of ResNets and VGGs that Keras did not publish are left open: some were trained after `preprocess_input`
    (blue, green, red, less a mean), many on pixels of 0..1, and nothing in the file tells.
    """
    try:
        shapes, description = read_kernel_shapes(path)
    except UserError:  # what is wrong with the file is said when its weights are read
        return None
    width = shapes.get(LAST_PROJECTION, (0,))[-1]
    if application_of(list(shapes)) is not MOBILENET_V2 or width not in MOBILENETS:
        return None
    return Card(
        architecture=MOBILENETS[width],
        num_classes=next((shape[1] for shape in shapes.values() if len(shape) == 2), 0),
        model_args=dict(MOBILENET_V2.model_args),
        input_size=(3, *(described_size(description) or USUAL_SIZE)),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bilinear",
        crop_pct=0.875,
        label_names=None,
        origin=f"Keras's preprocess_input for MobileNetV2, as {path.name} has no card of its own",
        stands_in=True,
    )


def described_size(description: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Height and width of the images, as a file's first layer says them; None where it does not."""
    config = description[0]["config"] if description else {}
    shape = config.get("batch_shape") or config.get("batch_input_shape") or []
    if len(shape) != 4 or not all(type(side) is int and side > 0 for side in shape[1:3]):
        return None
    return shape[1], shape[2]

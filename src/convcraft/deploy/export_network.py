"""A run's network as it is exported: batch norms folded, outputs named, normalisation inside where asked."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.formats.form import FEATURES, LOGITS
from convcraft.errors import UserError
from convcraft.models.batch_norm_folding import fold_batch_norms
from convcraft.models.classifier import only_classifier

TOLERANCE = 1e-4  # of the largest logit: what taking a network apart and folding it may change by rounding
EXAMPLES = 2


class ExportNetwork(nn.Module):
    """logits [B, K], and where asked the classifier's input [B, D], of images.

    Args:
        model: in evaluation mode; a folded copy is taken.
        preprocess: of the run.
        features: also give the classifier's input, which some scores of strangeness need.
        made_by: settings that build the model again, for formats that do so.
        normalises: takes uint8 pixels [B, H, W, C] instead of normalised float32 [B, C, H, W].

    Raises:
        UserError: features of a network whose classifier does not come last.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        features: bool = False,
        normalises: bool = False,
        made_by: ModelConfig | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.normalises = normalises
        self.made_by = made_by
        self.arithmetic = torch.float32
        self._source = (model,)  # in a tuple: its weights are no part of this module
        images = _examples(preprocess)
        self.body = fold_batch_norms(model, images)
        self.classifier: nn.Module | None = None
        if normalises:
            mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
            self.register_buffer("scale", (1 / (255 * std)).reshape(1, -1, 1, 1))
            self.register_buffer("shift", (-mean / std).reshape(1, -1, 1, 1))
        if features:
            self._split(images)
        self.eval().requires_grad_(False)

    @property
    def source(self) -> nn.Module:
        """The network as it was given, batch norms and all."""
        return self._source[0]

    @property
    def num_classes(self) -> int:
        with torch.no_grad():
            return _logits_of(self.source(_examples(self.preprocess))).shape[1]

    @property
    def output_names(self) -> tuple[str, ...]:
        return (LOGITS,) if self.classifier is None else (LOGITS, FEATURES)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.normalises:
            images = images.permute(0, 3, 1, 2).float() * self.scale + self.shift
        if self.arithmetic != torch.float32:
            images = images.to(self.arithmetic)
        if self.classifier is None:
            return _logits_of(self.body(images)).float()
        features = self.body(images)
        return self.classifier(features).float(), features.float()

    def for_torch(self, precision: str) -> ExportNetwork:
        """A copy laid out as torch computes it fastest on a CPU: channels last.

        In bfloat16 all but the normalising is, which was quicker than autocast at the same change of the logits
        (docs/bundle.md). Answers stay float32.
        """
        network = copy.deepcopy(self, {id(self._source): self._source})
        if precision == "bfloat16":
            network.arithmetic = torch.bfloat16
            for part in (network.body, network.classifier):
                if part is not None:
                    part.to(torch.bfloat16)
        return network.to(memory_format=torch.channels_last)

    def inputs_of(self, pixels: NDArray[np.uint8]) -> NDArray[np.generic]:
        """What the network takes of pixels uint8 [N, H, W, C]."""
        return pixels if self.normalises else self.preprocess.normalise(pixels)

    def example(self) -> Tensor:
        """A batch to trace it with."""
        images = _examples(self.preprocess)
        if not self.normalises:
            return images
        return (images.permute(0, 2, 3, 1) * 40 + 128).clamp(0, 255).to(torch.uint8).contiguous()

    def _split(self, images: Tensor) -> None:
        """Take the classifier off the body, so that its input is an output of its own."""
        with torch.no_grad():
            expected = _logits_of(self.body(images))
        name, classifier = only_classifier(self.body)
        body = copy.deepcopy(self.body)
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, nn.Identity())
        with torch.no_grad():
            features = body(images)
            got = classifier(features) if isinstance(features, Tensor) and features.ndim == 2 else None
        if got is None or got.shape != expected.shape or not _close(got, expected):
            received = f"{type(self.body).__name__}, whose classifier {name} does not come last"
            fix = "Its trust.json measures distances by them. Without that file it is exported, uncalibrated."
            raise UserError(received, "a network that ends in its classifier", fix)
        self.body, self.classifier = body, classifier


def _logits_of(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Of a network with further heads, the first."""
    return answer if isinstance(answer, Tensor) else answer[0]


def _close(got: Tensor, expected: Tensor) -> bool:
    return float((got - expected).abs().max()) <= TOLERANCE * max(float(expected.abs().max()), 1e-6)


def _examples(preprocess: Preprocess) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (EXAMPLES, preprocess.channels, preprocess.height, preprocess.width)
    return torch.randn(shape, generator=generator)

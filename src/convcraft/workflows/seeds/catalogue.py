"""The five articles: what each builds, claims, and where its parts are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from convcraft.errors import UserError
from convcraft.workflows.seeds.diagnose import diagnose, gravest_first
from convcraft.workflows.seeds.program import Diagnosis


@dataclass(frozen=True)
class Seed:
    """One article. All are of a series by 禅与计算机程序设计艺术 (Zen and the Art of Computer Programming)."""

    id: str
    title: str
    english: str
    framework: str
    builds: str
    data: str
    claim: float | None  # test accuracy that the article reports
    recipe: str | None  # of the repaired system

    @property
    def claim_text(self) -> str:
        return "none" if self.claim is None else f"{self.claim:.2%} on {self.data}"


SEEDS = {
    seed.id: seed
    for seed in (
        Seed(
            "000",
            "从零开始大模型开发与微调：卷积神经网络的原理",
            "how convolutional networks work",
            "Keras",
            "ResNet-50 from ImageNet weights, fine-tuned at 224 pixels",
            "CIFAR-10",
            0.9836,
            "seed-000",
        ),
        Seed(
            "001",
            "从零开始大模型开发与微调：基于卷积的MNIST分类模型",
            "a convolutional classifier for MNIST",
            "PyTorch",
            "two convolutions, two dense layers",
            "MNIST",
            None,
            "seed-001",
        ),
        Seed(
            "002",
            "从零开始大模型开发与微调：基本卷积运算示例",
            "convolution by hand",
            "NumPy",
            "conv2d in two loops, heat maps",
            "one image",
            None,
            None,
        ),
        Seed(
            "003",
            "从零开始大模型开发与微调：ResNet诞生的背景",
            "how ResNet came about",
            "PyTorch",
            "ResNet-18",
            "CIFAR-10",
            0.70,
            "seed-003",
        ),
        Seed(
            "004",
            "从零开始大模型开发与微调：基于卷积的MNIST分类模型",
            "a convolutional classifier for MNIST, saved and fine-tuned",
            "Keras",
            "four convolutions, two dense layers, .h5, fine-tuning of the dense layers",
            "MNIST",
            None,
            "seed-004",
        ),
    )
}


def find_seed(seed_id: str) -> Seed:
    """The article of a number.

    Raises:
        UserError: no such article.
    """
    if seed_id not in SEEDS:
        raise UserError(f"seed {seed_id!r}", "one of " + ", ".join(SEEDS), "See: convcraft seeds list")
    return SEEDS[seed_id]


def seed_module(seed_id: str) -> ModuleType:
    """The module that holds an article's listing and its repair."""
    find_seed(seed_id)
    return importlib.import_module(f"convcraft.workflows.seeds.seed_{seed_id}")


def diagnose_seed(seed_id: str) -> list[Diagnosis]:
    """What is wrong in an article, in its listing and in its text."""
    module = seed_module(seed_id)
    text_findings: Callable[[], list[Diagnosis]] | None = getattr(module, "text_findings", None)
    return gravest_first(diagnose(module.as_written()) + (text_findings() if text_findings else []))

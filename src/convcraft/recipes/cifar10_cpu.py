"""CIFAR-10 from scratch on two CPU cores in a quarter of an hour: ResNet-9 with a whitening stem, trained by Muon.

Sources: Page 2018-19 (network, one short cycle), Jordan 2024, arXiv:2404.00498 (whitening stem, alternating flips,
label smoothing of 0.2), Jordan et al. 2024 (Muon; weights of fixed length as in airbench94). Passes of 125 images, four
to a step: their maps stay in the cache, and batch norm sees 125 at a time.
Command: convcraft train cifar10 --recipe cifar10-cpu --final --out runs/cifar10 && convcraft evaluate runs/cifar10
(--final trains on all 50,000 images; the schedule is fixed, so nothing is selected. Without it 5,000 are validation.)
Measured: benchmarks/results/cifar10_cpu.json, made by `python benchmarks/cifar10_cpu.py`; the README quotes it.
Settings were chosen on validation images of single runs; the test images were judged once per seed, at the end.
"""

from convcraft.config import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)


def config() -> RunConfig:
    return RunConfig(
        recipe="cifar10-cpu",
        data=DataConfig(source="cifar10", val_fraction=0.1),
        augment=AugmentConfig(crop_padding_pixels=2, horizontal_flip=True, flip_mode="alternate"),
        model=ModelConfig(name="resnet9", args={"widths": [64, 128, 256]}),
        optim=OptimConfig(
            name="muon",
            muon_scale="relative",
            learning_rate=0.2,
            momentum=0.6,
            other="adamw",
            other_learning_rate=5e-3,
            weight_decay=0.05,
        ),
        schedule=ScheduleConfig(name="one_cycle", peak_fraction=0.1, start_fraction=0.2),
        training=TrainingConfig(
            epochs=10, batch_size=125, accumulation_steps=4, label_smoothing=0.2, ema_decay=0.97, select="last"
        ),
    )

"""Six epochs on MNIST: a small VGG with a strided stem, moves and turns, one cycle of AdamW.

Sources: Simonyan & Zisserman 2015 (network), Smith & Topin 2018 (one cycle), Szegedy et al. 2016 (label smoothing).
Command: convcraft train mnist --final --out runs/mnist && convcraft evaluate runs/mnist
(--final trains on all 60,000 images; the schedule is fixed, so nothing is selected. Without it 5,000 are validation.)
Measured: benchmarks/results/mnist.json, made by `python benchmarks/mnist.py`; the README quotes it.
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
        recipe="mnist",
        data=DataConfig(source="mnist", val_fraction=5 / 60),
        augment=AugmentConfig(shift_fraction=0.08, rotation_degrees=10.0, scale_range=(0.9, 1.1)),
        model=ModelConfig(name="vgg_small", args={"stem": 16, "widths": [32, 96], "pooling": "max"}),
        optim=OptimConfig(name="adamw", learning_rate=6e-3, weight_decay=0.1),
        schedule=ScheduleConfig(name="one_cycle", peak_fraction=0.25),
        training=TrainingConfig(epochs=6, batch_size=96, label_smoothing=0.1, ema_decay=0.998, select="last"),
    )

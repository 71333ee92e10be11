"""One epoch on MNIST: the network of the recipe mnist, narrower, moved by a pixel at most.

Sources: as for the recipe mnist.
Command: convcraft train mnist --recipe mnist-fast --final --out runs/fast && convcraft evaluate runs/fast
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
        recipe="mnist-fast",
        data=DataConfig(source="mnist", val_fraction=5 / 60),
        augment=AugmentConfig(shift_fraction=0.04),
        model=ModelConfig(name="vgg_small", args={"stem": 12, "widths": [24, 64], "pooling": "max"}),
        optim=OptimConfig(name="adamw", learning_rate=8e-3, weight_decay=0.1),
        schedule=ScheduleConfig(name="one_cycle", peak_fraction=0.2),
        training=TrainingConfig(epochs=1, batch_size=64, label_smoothing=0.1, select="last"),
    )

"""LeNet-5 with ReLU, trained by the NumPy engine on MNIST: the default of `convcraft scratch train`.

Sources: LeCun et al. 1998 (network), Kingma & Ba 2015 (Adam), Smith & Topin 2018 (one cycle).
Command: convcraft scratch train mnist --out runs/scratch && convcraft evaluate runs/scratch
Measured: benchmarks/results/scratch_mnist.json, made by `python benchmarks/scratch_mnist.py`: 99.24 % of the test
images (99.20 to 99.30, 3 seeds), trained in 74 to 103 s on two shared cores.
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
        recipe="scratch-lenet5",
        data=DataConfig(source="mnist", val_fraction=5 / 60),
        augment=AugmentConfig(shift_fraction=0.04),
        model=ModelConfig(name="lenet5", args={"activation": "relu"}),
        optim=OptimConfig(name="adam", learning_rate=4e-3, weight_decay=0.0),
        schedule=ScheduleConfig(name="one_cycle"),
        training=TrainingConfig(epochs=5, batch_size=64, select="last", engine="numpy"),
    )

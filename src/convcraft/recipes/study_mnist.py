"""One cell of the study on kernel size, depth and width: 10,000 MNIST digits, two epochs, a few seconds.

Every other cell changes model.args alone, so that the difference between two cells is what their networks differ in.
No augmentation, no smoothing, no average of weights: they would blur what the network itself can do.
Command (model.args is replaced as a whole, so it repeats the widths):
convcraft train mnist --recipe study-mnist --set "model.args={widths: [16, 32, 64], convs_per_stage: 1, kernel_size: 5}"
Measured: benchmarks/results/choose_network.json, made by `python benchmarks/choose_network.py`; docs/choosing.md has
the table.
"""

from convcraft.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)


def config() -> RunConfig:
    return RunConfig(
        recipe="study-mnist",
        data=DataConfig(source="mnist", val_fraction=5 / 60, labels_per_class=1000),
        model=ModelConfig(name="vgg_small", args={"widths": [16, 32, 64], "convs_per_stage": 1}),
        optim=OptimConfig(name="adamw", learning_rate=4e-3, weight_decay=0.01),
        schedule=ScheduleConfig(name="one_cycle"),
        training=TrainingConfig(epochs=2, batch_size=64, select="last"),
    )

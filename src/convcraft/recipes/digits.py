"""scikit-learn's 1,797 scanned digits of 8x8 pixels: the data of `convcraft demo`."""

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
        recipe="digits",
        data=DataConfig(source="digits", val_fraction=0.1, test_fraction=0.2),
        augment=AugmentConfig(shift_fraction=0.13, rotation_degrees=10.0, scale_range=(0.9, 1.1)),
        model=ModelConfig(name="vgg_small", args={"widths": [32, 64, 128]}, dropout=0.2),
        optim=OptimConfig(name="adamw", learning_rate=5e-3, weight_decay=0.05),
        schedule=ScheduleConfig(name="one_cycle"),
        training=TrainingConfig(epochs=30, batch_size=64, label_smoothing=0.05, ema_decay=0.98),
    )

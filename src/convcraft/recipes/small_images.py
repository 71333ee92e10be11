"""Images of up to 64 pixels from scratch (CIFAR-like): the default for data without a recipe of its own."""

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
        recipe="small-images",
        data=DataConfig(),
        augment=AugmentConfig(shift_fraction=0.1, brightness=0.1, contrast=0.1),
        model=ModelConfig(name="resnet20_cifar"),
        optim=OptimConfig(name="adamw", learning_rate=4e-3, weight_decay=0.05),
        schedule=ScheduleConfig(name="one_cycle"),
        training=TrainingConfig(epochs=20, batch_size=128, label_smoothing=0.05, ema_decay=0.995),
    )

"""Seed 004's Keras network on MNIST, with the article's optimiser and its mistakes mended.

Source: article 004 of docs/seeds.md: Adam 1e-3 (Keras's default), batches of 128, 10 epochs. Added: padded convolutions
(without them the fourth sees 1x1), dropout and augmentation (which its text names), 5,000 validation images.
Command: convcraft seeds run 004
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
        recipe="seed-004",
        data=DataConfig(source="mnist", val_fraction=5 / 60),
        augment=AugmentConfig(shift_fraction=0.08, rotation_degrees=10.0),
        model=ModelConfig(name="keras_cnn", dropout=0.25),
        optim=OptimConfig(name="adam", learning_rate=1e-3, weight_decay=0.0),
        schedule=ScheduleConfig(name="constant"),
        training=TrainingConfig(epochs=10, batch_size=128),
    )

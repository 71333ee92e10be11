"""Seed 001's network (two convolutions, 128 units) on MNIST, with the article's optimiser and its mistakes mended.

Source: article 001 of docs/seeds.md: Adam 1e-3, batches of 64, 10 epochs. Added: dropout (which its text names),
5,000 validation images with early stopping (named too), and a learning rate that falls to 0 along a cosine.
Command: convcraft seeds run 001
"""

from convcraft.config import DataConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainingConfig


def config() -> RunConfig:
    return RunConfig(
        recipe="seed-001",
        data=DataConfig(source="mnist", val_fraction=5 / 60),
        model=ModelConfig(name="seed_cnn", dropout=0.5),
        optim=OptimConfig(name="adam", learning_rate=1e-3, weight_decay=0.0),
        schedule=ScheduleConfig(name="cosine"),
        training=TrainingConfig(epochs=10, batch_size=64, early_stopping_epochs=4),
    )

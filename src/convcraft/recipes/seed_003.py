"""Seed 003's ResNet-18 on CIFAR-10, all of it trained, with the article's optimiser and its mistakes mended.

Source: article 003 of docs/seeds.md: Adam 1e-3, batches of 128, 10 epochs. Added: ten outputs, normalised pixels,
flips and padded crops (the text asks for augmentation), 5,000 validation images, one cycle of the learning rate with
its peak at the article's 1e-3. The stem stays torchvision's, made for 224 pixels: it quarters 32x32 to 8x8 at once,
which costs accuracy and saves two thirds of the time.
Command: convcraft seeds run 003
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
        recipe="seed-003",
        data=DataConfig(source="cifar10", val_fraction=0.1),
        augment=AugmentConfig(crop_padding_pixels=4, horizontal_flip=True),
        model=ModelConfig(name="resnet18"),
        optim=OptimConfig(name="adam", learning_rate=1e-3, weight_decay=0.0),
        schedule=ScheduleConfig(name="one_cycle"),
        training=TrainingConfig(epochs=10, batch_size=128),
    )

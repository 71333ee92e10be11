"""Seed 000's ResNet-50 on CIFAR-10 at 224 pixels, from ImageNet weights that the reader provides (--weights).

Source: article 000 of docs/seeds.md: Adam 1e-4, batches of 16, 10 epochs. Added: ten outputs, the input that the
weights were trained on (ImageNet mean and deviation), turns (which its text names), 5,000 validation images, early
stopping.
Command: convcraft seeds run 000 --weights resnet50.safetensors
"""

from convcraft.config import (
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    PreprocessConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def config() -> RunConfig:
    return RunConfig(
        recipe="seed-000",
        data=DataConfig(source="cifar10", val_fraction=0.1),
        preprocess=PreprocessConfig(image_size=(224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=AugmentConfig(horizontal_flip=True, rotation_degrees=10.0, scale_range=(0.8, 1.2)),
        model=ModelConfig(name="resnet50"),
        optim=OptimConfig(name="adam", learning_rate=1e-4, weight_decay=0.0),
        schedule=ScheduleConfig(name="constant"),
        training=TrainingConfig(epochs=10, batch_size=16, early_stopping_epochs=3),
    )

"""Seed 000: Keras's ResNet50, fine-tuned on CIFAR-10, as the article writes it and repaired."""

from __future__ import annotations

import math

from convcraft.workflows.seeds.program import WRONG, Diagnosis, Program, Promise, Shown, Task

TASK = Task("CIFAR-10", num_classes=10, image_shape=(3, 224, 224), train_images=50_000, test_images=10_000)
SHOWN = Shown(steps_per_epoch=1407, test_steps=2000)
PROMISES = (
    Promise("rotation", "section 5.3 says that training images are turned"),
    Promise("early stopping", "step 4 of section 3.2 stops early by the validation figure"),
)

# The listings of section 5.2, joined.
SOURCE = """\
import tensorflow as tf
from tensorflow.keras import layers
from tensorflow.keras.applications.resnet50 import ResNet50

model = ResNet50(weights='imagenet', include_top=False, input_shape=(224, 224, 3))
model.add(layers.GlobalAveragePooling2D())
model.add(layers.Dense(1, activation='sigmoid'))

optimizer = tf.keras.optimizers.Adam(learning_rate=1e-4)

import numpy as np
from tensorflow.keras.preprocessing.image import ImageDataGenerator

train_datagen = ImageDataGenerator(rescale=1./255, shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
test_datagen = ImageDataGenerator(rescale=1./255)
train_generator = train_datagen.flow_from_directory('train', target_size=(224, 224), batch_size=16, class_mode='binary')
test_generator = test_datagen.flow_from_directory('test', target_size=(224, 224), batch_size=16, class_mode='binary')

def train_epoch(model, dataset, batch_size, optimizer):
    model.compile(optimizer=optimizer, loss='binary_crossentropy', metrics=['accuracy'])
    model.fit(dataset, epochs=1, validation_data=dataset)

def evaluate(model, dataset, batch_size):
    model.evaluate(dataset)

epochs = 10
batch_size = 16

for epoch in range(epochs):
    train_epoch(model, train_generator, batch_size, optimizer)

    print(f'Epoch {epoch+1}, dev results:')
    evaluate(model, test_generator, batch_size)

print('Final test results:')
evaluate(model, test_generator, batch_size)
"""

# The same program with its mistakes mended, on CIFAR-10 as Keras brings it.
REPAIRED = """\
import keras
from keras import layers
from keras.applications.resnet50 import ResNet50, preprocess_input

(x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
x_train, y_train, x_val, y_val = x[5000:], y[5000:], x[:5000], y[:5000]

backbone = ResNet50(weights='imagenet', include_top=False, input_shape=(224, 224, 3))
model = keras.Sequential([
    layers.Input((32, 32, 3)),
    layers.RandomFlip('horizontal'),
    layers.RandomRotation(0.03),
    layers.RandomZoom(0.2),
    layers.Resizing(224, 224),
    layers.Lambda(preprocess_input),
    backbone,
    layers.GlobalAveragePooling2D(),
    layers.Dense(10, activation='softmax'),
])
model.compile(
    optimizer=keras.optimizers.Adam(learning_rate=1e-4), loss='sparse_categorical_crossentropy', metrics=['accuracy']
)
stop = keras.callbacks.EarlyStopping(monitor='val_accuracy', patience=3, restore_best_weights=True)
model.fit(x_train, y_train, batch_size=16, epochs=10, validation_data=(x_val, y_val), callbacks=[stop])
print('Final test results:', model.evaluate(x_test, y_test, batch_size=16))
"""


def as_written() -> Program:
    return Program(SOURCE, TASK, SHOWN, PROMISES)


def repaired() -> Program:
    """Nothing is printed as a result here, so nothing is claimed of it."""
    return Program(REPAIRED, TASK, promises=PROMISES)


def written_loss(label: int, probability: float) -> float:
    """Section 4.2: -y log p - (1 - y) log(1 - p), for labels y of 1 ... K."""
    return -label * math.log(probability) - (1 - label) * math.log(1 - probability)


def text_findings() -> list[Diagnosis]:
    """The article's loss, worked out for a label that only more than two classes have.

    A worked example, not a check: no program reads the formula out of the prose, people did.
    """
    label = TASK.num_classes - 1
    near, nearer = written_loss(label, 1 - 1e-3), written_loss(label, 1 - 1e-6)
    cause = (
        f"the two-class loss is written for labels up to K: for label {label} it is {near:.1f} at p = 0.999 and "
        f"{nearer:.1f} at p = 0.999999; it falls without end, and says nothing about the class"
    )
    return [Diagnosis("loss formula", WRONG, "text, section 4.2", cause, "-log p[y], with p = softmax over K outputs.")]

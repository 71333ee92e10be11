"""Seed 004: a Keras CNN for MNIST with fine-tuning, as the article writes it and repaired."""

from __future__ import annotations

from convcraft.workflows.seeds.program import Program, Promise, Task

TASK = Task("MNIST", num_classes=10, image_shape=(1, 28, 28), train_images=60_000, test_images=10_000)
PROMISES = (
    Promise("dropout", "step 2 of section 3.2 adds dropout"),
    Promise("augmentation", "section 2.2.2 shows seven kinds of augmentation"),
    Promise("frozen layers", "section 4.3 says that only the dense layers are updated"),
)
# Not mended, and found in the repaired listing too: the network stays the one that the code names, so that a file saved
# by it fits ours (`models/keras_cnn.py`); four convolutions train well without batch normalisation.
NOT_MENDED = (
    Promise("batch normalisation", "step 2 of section 3.2 adds batch normalisation"),
    Promise("MaxPooling2D layers: 3", "section 4.1 speaks of four convolutions and three poolings"),
)

# The listings of sections 4.1 and 4.3, joined (comments left out).
SOURCE = """\
from tensorflow import keras
import numpy as np

(x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()

x_train, x_test = x_train / 255.0, x_test / 255.0

y_train = keras.utils.to_categorical(y_train, 10)
y_test = keras.utils.to_categorical(y_test, 10)

model = keras.Sequential([
    keras.layers.Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)),
    keras.layers.MaxPooling2D((2, 2)),
    keras.layers.Conv2D(64, (3, 3), activation='relu'),
    keras.layers.MaxPooling2D((2, 2)),
    keras.layers.Conv2D(64, (3, 3), activation='relu'),
    keras.layers.MaxPooling2D((2, 2)),
    keras.layers.Conv2D(64, (3, 3), activation='relu'),
    keras.layers.MaxPooling2D((2, 2)),
    keras.layers.Flatten(),
    keras.layers.Dense(64, activation='relu'),
    keras.layers.Dense(10, activation='softmax')
])

loss_fn = keras.losses.categorical_crossentropy

optimizer = keras.optimizers.Adam()

batch_size = 128
epochs = 10

model.compile(optimizer=optimizer, loss=loss_fn, metrics=['accuracy'])

model.fit(x_train.reshape(-1, 28, 28, 1), y_train, epochs=epochs, batch_size=batch_size,
          validation_data=(x_test.reshape(-1, 28, 28, 1), y_test))

model.save('mnist_model.h5')

loaded_model = keras.models.load_model('mnist_model.h5')

x_val = np.random.randn(1000, 28, 28, 1)
y_val = np.random.randint(10, size=(1000,))

loaded_model.fit(x_val.reshape(-1, 28, 28, 1), y_val, epochs=10, batch_size=128,
                 validation_data=(x_test.reshape(-1, 28, 28, 1), y_test))

(x_val, y_val), (x_test, y_test) = keras.datasets.mnist.load_data()

x_val, x_test = x_val / 255.0, x_test / 255.0

y_val = keras.utils.to_categorical(y_val, 10)
y_test = keras.utils.to_categorical(y_test, 10)

x_val = x_val.reshape(-1, 28, 28, 1)
y_val = y_val

x_test = x_test.reshape(-1, 28, 28, 1)
y_test = y_test

loaded_model.compile(optimizer=optimizer, loss=loss_fn, metrics=['accuracy'])

loaded_model.fit(x_val.reshape(-1, 28, 28, 1), y_val, epochs=10, batch_size=128,
                 validation_data=(x_test.reshape(-1, 28, 28, 1), y_test))
"""

# The same program with its mistakes mended; its new data are the digits of scikit-learn, brought to 28x28.
REPAIRED = """\
import keras
import numpy as np
from sklearn.datasets import load_digits

layers = keras.layers

def pictures(pixels):
    return pixels.reshape(-1, 28, 28, 1) / 255.0

def rows(digits):
    return keras.utils.to_categorical(digits, 10)

(x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
x_train, y_train, x_val, y_val = pictures(x[5000:]), rows(y[5000:]), pictures(x[:5000]), rows(y[:5000])

model = keras.Sequential([
    layers.RandomRotation(0.03, input_shape=(28, 28, 1)),
    layers.RandomTranslation(0.08, 0.08),
    layers.Conv2D(32, (3, 3), activation='relu', padding='same'),
    layers.MaxPooling2D((2, 2)),
    layers.Conv2D(64, (3, 3), activation='relu', padding='same'),
    layers.MaxPooling2D((2, 2)),
    layers.Conv2D(64, (3, 3), activation='relu', padding='same'),
    layers.MaxPooling2D((2, 2)),
    layers.Conv2D(64, (3, 3), activation='relu', padding='same'),
    layers.MaxPooling2D((2, 2)),
    layers.Flatten(),
    layers.Dense(64, activation='relu'),
    layers.Dropout(0.25),
    layers.Dense(10, activation='softmax'),
])
model.compile(optimizer=keras.optimizers.Adam(), loss='categorical_crossentropy', metrics=['accuracy'])
model.fit(x_train, y_train, epochs=10, batch_size=128, validation_data=(x_val, y_val))
print('MNIST test', model.evaluate(pictures(x_test), rows(y_test), verbose=0))
model.save('mnist_model.h5')

loaded_model = keras.models.load_model('mnist_model.h5')
for layer in loaded_model.layers:
    layer.trainable = isinstance(layer, layers.Dense)
loaded_model.compile(optimizer=keras.optimizers.Adam(), loss='categorical_crossentropy', metrics=['accuracy'])

new = load_digits()
larger = np.kron(new.images, np.ones((1, 3, 3))) * (255 / 16)
larger = np.pad(larger, ((0, 0), (2, 2), (2, 2)))
x_new, y_new = pictures(larger[:1200]), rows(new.target[:1200])
x_new_val, y_new_val = pictures(larger[1200:1400]), rows(new.target[1200:1400])
loaded_model.fit(x_new, y_new, epochs=10, batch_size=128, validation_data=(x_new_val, y_new_val))
print('new test', loaded_model.evaluate(pictures(larger[1400:]), rows(new.target[1400:]), verbose=0))
"""


def as_written() -> Program:
    return Program(SOURCE, TASK, promises=PROMISES + NOT_MENDED)


def repaired() -> Program:
    return Program(REPAIRED, TASK, promises=PROMISES + NOT_MENDED)

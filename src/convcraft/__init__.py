"""convcraft: labelled images in; a proven, explained, deployable convolutional network out."""

__version__ = "0.1.0"

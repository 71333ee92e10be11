"""Predictions on held-out images and the figures drawn from them."""

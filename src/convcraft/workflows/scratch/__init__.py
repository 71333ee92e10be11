"""Training with the NumPy engine: `convcraft.scratch` computes, the rooms for data, logs and checkpoints serve it."""

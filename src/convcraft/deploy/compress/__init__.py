"""Smaller networks from larger ones: pruning, distillation, sparse storage, and the gate that all must pass."""

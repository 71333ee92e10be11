"""Networks made of the layers, one paper per file; parameter names are those of the torch models, so weights load."""

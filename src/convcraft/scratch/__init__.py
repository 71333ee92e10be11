"""Convolutional networks in NumPy alone: every layer with its forward and its backward, written to be read.

Read in this order: `activations`, `linear`, `convolution`, `pooling`, `normalisation`, `losses` (operations and their
derivatives) -> `module`, `layers` (operations that remember) -> `networks` -> `optim`, `schedules`, `initialise` ->
`gradcheck`. `functional` gathers the operations under the names of torch.nn.functional; `conv_algorithms` computes one
convolution in seven ways. Nothing here imports anything but NumPy and the standard library.
"""

"""One convolution, computed in many ways. Each file has `convolve`, `supports`, `count_ops` and `workspace_bytes`.

`im2col_nhwc` and `winograd` also have `forward` and `backward`: the engine trains with these two (`choose` says which).
"""

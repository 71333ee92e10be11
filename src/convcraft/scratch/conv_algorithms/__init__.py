"""One convolution, computed in many ways: each file has `convolve` and says what it costs; `catalogue` gathers them.

`im2col_nchw`, `im2col_nhwc` and `winograd` also have `forward` and `backward`: the engine trains with these (`choose`
says which).
"""

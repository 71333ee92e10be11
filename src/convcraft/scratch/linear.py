"""The linear layer: every output is a weighted sum of all inputs, plus a bias."""

from __future__ import annotations

from convcraft.scratch.checks import Array, check_floating, refuse


def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """output = input @ weight.T + bias.

    Args:
        input: [..., in_features].
        weight: [out_features, in_features]: one row of weights per output.
        bias: [out_features].

    Returns:
        [..., out_features].
    """
    check_floating(input=input, weight=weight, bias=bias)
    if weight.ndim != 2 or input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        raise refuse(
            f"input {list(input.shape)} and weight {list(weight.shape)}",
            "input [..., in_features] and weight [out_features, in_features]",
            "Flatten maps to [B, C * H * W] first, keeping the batch axis: a view(-1, n) with a wrong n mixes images.",
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise refuse(f"bias {list(bias.shape)}", f"[{len(weight)}]", "Give one number per output.")
    output = input @ weight.T
    return output if bias is None else output + bias


def linear_backward(grad_output: Array, input: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients of input, weight and bias.

    output[b, o] = sum over i of input[b, i] weight[o, i] + bias[o], so
        dL/dinput[b, i]  = sum over o of grad_output[b, o] weight[o, i]     = grad_output @ weight
        dL/dweight[o, i] = sum over b of grad_output[b, o] input[b, i]      = grad_output.T @ input
        dL/dbias[o]      = sum over b of grad_output[b, o]
    A weight is used once for every image, so its gradient is a sum over the images.

    Args:
        grad_output: [..., out_features].
        input: [..., in_features], what `linear` got.
        weight: [out_features, in_features].
    """
    grad_rows = grad_output.reshape(-1, len(weight))  # [B, out_features]
    rows = input.reshape(-1, weight.shape[1])  # [B, in_features]
    return grad_output @ weight, grad_rows.T @ rows, grad_rows.sum(axis=0)

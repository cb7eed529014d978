"""Matrix products and convolutions, as ONNX nodes.

Each function takes the graph, the equation and its inputs, and returns its output.
"""

import math
from collections.abc import Sequence
from typing import Any

from litv2_jax.to_onnx.graph import Graph, Shape, Value
from litv2_jax.to_onnx.shapes import reshape, sides, transpose


def dot_general(graph: Graph, eqn: Any, x: Value, y: Value) -> Value:
    """`lax.dot_general`, by MatMul: [batch..., rows, C] x [batch..., C, columns]."""
    contracting, batch = eqn.params["dimension_numbers"]
    aval = eqn.outvars[0].aval
    shape, dtype = sides(aval.shape), aval.dtype
    if not batch[0] and len(contracting[0]) == 1 and 2 in (len(x.shape), len(y.shape)):
        axes = (contracting[0][0], contracting[1][0])
        return _multiply_matrix(graph, x, y, axes, shape, dtype)
    rows = _others(x, batch[0], contracting[0])
    columns = _others(y, batch[1], contracting[1])
    stack = tuple(x.shape[i] for i in batch[0])
    size = (_merge(x, rows), _merge(x, contracting[0]), _merge(y, columns))
    x = transpose(graph, x, [*batch[0], *rows, *contracting[0]])
    y = transpose(graph, y, [*batch[1], *contracting[1], *columns])
    x = reshape(graph, x, (*stack, size[0], size[1]))
    y = reshape(graph, y, (*stack, size[1], size[2]))
    product = graph.add("MatMul", [x, y], (*stack, size[0], size[2]), dtype)
    return reshape(graph, product, shape)


def _multiply_matrix(
    graph: Graph, x: Value, y: Value, axes: tuple[int, int], shape: Shape, dtype: Any
) -> Value:
    """Multiplies along one axis of each, where one of the two is a matrix."""
    if len(y.shape) == 2:
        x = transpose(graph, x, [*_others(x, axes[:1]), axes[0]])
        y = transpose(graph, y, [axes[1], 1 - axes[1]])
        return graph.add("MatMul", [x, y], shape, dtype)
    turned = (*shape[1:], shape[0])
    product = _multiply_matrix(graph, y, x, (axes[1], axes[0]), turned, dtype)
    return transpose(graph, product, [len(shape) - 1, *range(len(shape) - 1)])


def _others(x: Value, *used: Sequence[int]) -> list[int]:
    """Returns the axes that are in none of some lists."""
    known = {axis for axes in used for axis in axes}
    return [axis for axis in range(len(x.shape)) if axis not in known]


def _merge(x: Value, axes: Sequence[int]) -> int | str:
    """Returns the side of axes that become one."""
    shape = [x.shape[axis] for axis in axes if x.shape[axis] != 1]
    if len(shape) == 1:
        return shape[0]
    if any(isinstance(side, str) for side in shape):
        raise NotImplementedError(f"A product merges sides {shape}.")
    return math.prod(map(int, shape))


def convolve(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
    """`lax.conv_general_dilated`, between the layouts of JAX's arrays and ONNX's."""
    params, aval = eqn.params, eqn.outvars[0].aval
    numbers, dilation = params["dimension_numbers"], params["lhs_dilation"]
    if any(side != 1 for side in dilation) or params["batch_group_count"] != 1:
        raise NotImplementedError("Transposed convolutions are not translated.")
    low, high = zip(*params["padding"], strict=True)
    result, shape = numbers.out_spec, sides(aval.shape)
    y = graph.add(
        "Conv",
        [
            transpose(graph, x, numbers.lhs_spec),
            transpose(graph, kernel, numbers.rhs_spec),
        ],
        tuple(shape[axis] for axis in result),
        aval.dtype,
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        pads=[*low, *high],
        strides=list(params["window_strides"]),
    )
    return transpose(graph, y, [result.index(axis) for axis in range(len(result))])

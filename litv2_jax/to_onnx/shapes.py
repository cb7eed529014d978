"""Primitives that move numbers, as ONNX nodes.

Each function takes the graph, the equation and its inputs, and returns its outputs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from jax.lax import GatherScatterMode

from litv2_jax.to_onnx.graph import Graph, Shape, Value


def sides(shape: Sequence[Any]) -> Shape:
    """Returns a shape of JAX's, with text for the sides that depend on the batch."""
    return tuple(int(x) if isinstance(x, int | np.integer) else str(x) for x in shape)


def reshape(graph: Graph, x: Value, shape: Shape) -> Value:
    """Gives a value other sides."""
    if x.node is not None and x.node.op == "Reshape":
        x = x.node.inputs[0]
    if x.shape == shape:
        return x
    symbols = [side for side in shape if isinstance(side, str)]
    if len(symbols) > 1:
        raise NotImplementedError(
            f"A reshape to {shape} has two sides that depend on the batch."
        )
    target = np.array([-1 if isinstance(x, str) else x for x in shape], np.int64)
    return graph.add("Reshape", [x, graph.constant(target)], shape, x.dtype)


def transpose(graph: Graph, x: Value, order: Sequence[int]) -> Value:
    """Reorders axes."""
    shape = tuple(x.shape[i] for i in order)
    longer = [i for i in order if x.shape[i] != 1]
    if longer == sorted(longer):
        return reshape(graph, x, shape)
    return graph.add("Transpose", [x], shape, x.dtype, perm=list(map(int, order)))


def expand(graph: Graph, x: Value, shape: Shape) -> Value:
    """Repeats a value along the sides of 1 that are longer in a shape."""
    if x.shape == shape:
        return x
    repeated = [side for side, own in zip(shape, x.shape, strict=True) if own != side]
    if any(isinstance(side, str) for side in repeated):
        raise NotImplementedError(
            f"Something of shape {x.shape} is repeated for each image, to {shape}."
        )
    target = [1 if isinstance(side, str) else side for side in shape]
    target = graph.constant(np.array(target, np.int64))
    return graph.add("Expand", [x, target], shape, x.dtype)


def reshape_rule(graph: Graph, eqn: Any, x: Value) -> Value:
    """`lax.reshape`, `lax.squeeze` and `lax.expand_dims`."""
    return reshape(graph, x, sides(eqn.outvars[0].aval.shape))


def transpose_rule(graph: Graph, eqn: Any, x: Value) -> Value:
    """`lax.transpose`."""
    return transpose(graph, x, eqn.params["permutation"])


def iota(graph: Graph, eqn: Any) -> Value:
    """`lax.iota`, with sides of 1 but for the one that counts."""
    params = eqn.params
    shape = [1] * len(params["shape"])
    shape[params["dimension"]] = params["shape"][params["dimension"]]
    return graph.constant(np.arange(max(shape), dtype=params["dtype"]).reshape(shape))


def broadcast_in_dim(graph: Graph, eqn: Any, x: Value) -> Value:
    """Adds sides of 1 alone: what reads the result repeats it if it has to."""
    shape: list[int | str] = [1] * len(eqn.params["shape"])
    for axis, side in zip(eqn.params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = side
    return reshape(graph, x, tuple(shape))


def slice_axes(
    graph: Graph,
    x: Value,
    starts: Sequence[int],
    shape: Shape,
    strides: Sequence[int] | None = None,
) -> Value:
    """Takes a slice that begins somewhere and has a shape."""
    strides = strides or [1] * len(starts)
    axes = [i for i, side in enumerate(x.shape) if side != shape[i]]
    if not axes:
        return x
    ends = [starts[i] + (shape[i] - 1) * strides[i] + 1 for i in axes]  # pyright: ignore
    numbers = [[starts[i] for i in axes], ends, axes, [strides[i] for i in axes]]
    inputs = [graph.constant(np.array(part, np.int64)) for part in numbers]
    return graph.add("Slice", [x, *inputs], shape, x.dtype)


def slice_rule(graph: Graph, eqn: Any, x: Value) -> Value:
    """`lax.slice`."""
    params = eqn.params
    shape = sides(eqn.outvars[0].aval.shape)
    return slice_axes(graph, x, params["start_indices"], shape, params["strides"])


def pad(graph: Graph, eqn: Any, x: Value, value: Value) -> Value:
    """`lax.pad`, without padding inside."""
    low, high, inside = zip(*eqn.params["padding_config"], strict=True)
    if any(inside):
        raise NotImplementedError("Padding between elements is not in ONNX.")
    if not any(low) and not any(high):
        return x
    pads = graph.constant(np.array([*low, *high], np.int64))
    return graph.add("Pad", [x, pads, value], sides(eqn.outvars[0].aval.shape), x.dtype)


def concatenate(graph: Graph, eqn: Any, *parts: Value) -> Value:
    """`lax.concatenate`."""
    shape, axis = sides(eqn.outvars[0].aval.shape), eqn.params["dimension"]
    return graph.add("Concat", parts, shape, parts[0].dtype, axis=axis)


def stack(graph: Graph, eqn: Any, *parts: Value) -> Value:
    """Values side by side, along a new axis."""
    shape, axis = sides(eqn.outvars[0].aval.shape), eqn.params["axis"]
    row = (*shape[:axis], 1, *shape[axis + 1 :])
    rows = [reshape(graph, part, row) for part in parts]
    return graph.add("Concat", rows, shape, parts[0].dtype, axis=axis)


def unstack(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    """The values side by side along an axis; JAX has it since 0.12."""
    axis, rows = eqn.params["axis"], []
    for number, out in enumerate(eqn.outvars):
        starts = [number if i == axis else 0 for i in range(len(x.shape))]
        row = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        part = slice_axes(graph, x, starts, row)
        rows.append(reshape(graph, part, sides(out.aval.shape)))
    return rows


def split(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    """`lax.split`."""
    shapes = [sides(out.aval.shape) for out in eqn.outvars]
    sizes = graph.constant(np.array(eqn.params["sizes"], np.int64))
    axis = eqn.params["axis"]
    return graph.add_many("Split", [x, sizes], shapes, x.dtype, axis=axis)


def gather(graph: Graph, eqn: Any, x: Value, indices: Value) -> Value:
    """`lax.gather` as indexing has it: a slice, rows of an axis, rows of each image."""
    numbers, shape = eqn.params["dimension_numbers"], sides(eqn.outvars[0].aval.shape)
    axes, size = list(numbers.start_index_map), sides(eqn.params["slice_sizes"])
    if indices.array is not None and indices.array.ndim == 1:
        starts = [0] * len(x.shape)
        for axis, start in zip(axes, indices.array.tolist(), strict=True):
            starts[axis] = start
        return reshape(graph, slice_axes(graph, x, starts, size), shape)
    if eqn.params["mode"] != GatherScatterMode.PROMISE_IN_BOUNDS:
        _check_bounds(x, axes, size, indices)
    is_batched = tuple(numbers.operand_batching_dims) == (0,)
    if len(axes) != 1 or tuple(numbers.collapsed_slice_dims) != tuple(axes):
        raise NotImplementedError("Only whole rows are gathered in ONNX.")
    (axis,) = map(int, axes)
    if is_batched and axis == 1 and size[2:] == x.shape[2:]:
        index = cast(graph, indices, np.int64)
        return graph.add("GatherND", [x, index], shape, x.dtype, batch_dims=1)
    rows = reshape(graph, indices, indices.shape[:-1])
    expected = (*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :])
    if is_batched or expected != shape:
        raise NotImplementedError("Only whole rows are gathered in ONNX.")
    return graph.add("Gather", [x, rows], shape, x.dtype, axis=axis)


def _check_bounds(x: Value, axes: Sequence[int], size: Shape, indices: Value) -> None:
    """Refuses indices for which JAX would have to clip or to fill."""
    ends = [x.shape[axis] - size[axis] for axis in axes]  # pyright: ignore
    array = indices.array
    if array is None or (array < 0).any() or (array > ends).any():
        raise NotImplementedError("Indices may be out of bounds, which ONNX refuses.")


def cast(graph: Graph, x: Value, dtype: Any) -> Value:
    """Converts the numbers of a value."""
    dtype = np.dtype(dtype)
    if x.dtype == dtype:
        return x
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return graph.add("Cast", [x], x.shape, dtype, to=kind)

"""Finds what ONNX has as one operation: exact GELU and softmax.

Not layer normalization: a runtime may take the mean of squares minus the square of the
mean, which loses digits; see `litv2_jax.ops.layer_norm`.
"""

import math

import numpy as np

from litv2_jax.to_onnx.graph import Graph, Node, Value


def fuse(graph: Graph) -> None:
    """Replaces the last node of each; those before it are no longer needed."""
    for node in graph.nodes:
        gelu, softmax = _find_gelu(node), _find_softmax(node)
        if gelu is not None:
            _replace(node, "Gelu", gelu)
        elif softmax is not None:
            _replace(node, "Softmax", softmax, axis=-1)


def _replace(node: Node, op: str, x: Value, **attributes: int) -> None:
    node.op, node.inputs, node.attributes = op, [x], attributes
    node.outputs[0].name = op


def _find_gelu(node: Node) -> Value | None:
    """Returns x, if a node is the product in `x * (0.5 * (1 + erf(x * sqrt(0.5))))`."""
    if node.op != "Mul":
        return None
    for x, factor in (node.inputs, node.inputs[::-1]):
        erf = _read_other(_read_other(factor, "Mul", 0.5), "Add", 1)
        root = _read_other(_read(erf, "Erf"), "Mul", math.sqrt(0.5))
        if root is x:
            return x
    return None


def _find_softmax(node: Node) -> Value | None:
    """Returns x, if a node divides `exp(x - max(x))` by its sum, on its last axis."""
    if node.op != "Div":
        return None
    exp = node.inputs[0]
    difference = _read(exp, "Exp")
    x = _read(difference, "Sub")
    total = _read(node.inputs[1], "Reshape")
    largest = _read(_read(difference, "Sub", 1), "Reshape")
    row = _read_reduced(_read_other(largest, "Max", -math.inf), "ReduceMax")
    if x is None or row is None or _read_reduced(total, "ReduceSum") is not exp:
        return None
    return x if _strip(row) is _strip(x) else None


def _strip(x: Value) -> Value:
    """Returns what a value was before a reshape that keeps its last axis."""
    before = _read(x, "Reshape")
    return x if before is None or before.shape[-1] != x.shape[-1] else before


def _read(value: Value | None, op: str, index: int = 0) -> Value | None:
    """Returns an input of what computes a value, if that is such an operation."""
    if value is None or value.node is None or value.node.op != op:
        return None
    return value.node.inputs[index]


def _read_other(value: Value | None, op: str, number: float) -> Value | None:
    """Returns the other input, if an operation has a number as one of two."""
    if value is None or value.node is None or value.node.op != op:
        return None
    for x, y in (value.node.inputs, value.node.inputs[::-1]):
        if y.array is not None and y.array.ndim == 0 and np.isclose(y.array, number):
            return x
    return None


def _read_reduced(value: Value | None, op: str) -> Value | None:
    """Returns what is reduced along its last axis."""
    x, axes = _read(value, op), _read(value, op, 1)
    if x is None or axes is None or axes.array is None:
        return None
    return x if axes.array.tolist() == [len(x.shape) - 1] else None

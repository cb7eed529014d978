"""Primitives that compute each number by itself, and sums, as ONNX nodes.

Each function takes the graph, the equation and its inputs, and returns its output.
Inputs may have sides of 1 where JAX's are longer: ONNX repeats them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from litv2_jax.to_onnx.graph import Graph, Shape, Value
from litv2_jax.to_onnx.shapes import cast

Rule = Callable[..., Value]


def broadcast_shapes(*shapes: Shape) -> Shape:
    """Returns the shape that shapes of equal rank are repeated to; scalars fit all."""
    rank = max(map(len, shapes))
    columns = zip(*(shape or (1,) * rank for shape in shapes), strict=True)
    return tuple(next((x for x in column if x != 1), 1) for column in columns)


def elementwise(op: str, **attributes: Any) -> Rule:
    """Returns the rule of a primitive that ONNX has under a name of its own."""

    def rule(graph: Graph, eqn: Any, *inputs: Value) -> Value:
        shape = broadcast_shapes(*(x.shape for x in inputs))
        dtype = eqn.outvars[0].aval.dtype
        return graph.add(op, inputs, shape, dtype, **attributes)

    return rule


def not_equal(graph: Graph, eqn: Any, x: Value, y: Value) -> Value:
    """`x != y`."""
    equal = elementwise("Equal")(graph, eqn, x, y)
    return graph.add("Not", [equal], equal.shape, np.bool_)


def rsqrt(graph: Graph, eqn: Any, x: Value) -> Value:
    """`1 / sqrt(x)`."""
    root = elementwise("Sqrt")(graph, eqn, x)
    return elementwise("Reciprocal")(graph, eqn, root)


def square(graph: Graph, eqn: Any, x: Value) -> Value:
    """`x * x`."""
    return elementwise("Mul")(graph, eqn, x, x)


def select(graph: Graph, eqn: Any, condition: Value, no: Value, yes: Value) -> Value:
    """`lax.select_n` of two cases."""
    return elementwise("Where")(graph, eqn, condition, yes, no)


def convert(graph: Graph, eqn: Any, x: Value) -> Value:
    """`lax.convert_element_type`."""
    return cast(graph, x, eqn.params["new_dtype"])


def keep(graph: Graph, eqn: Any, x: Value) -> Value:
    """Primitives that matter to JAX alone."""
    del graph, eqn
    return x


ELEMENTWISE: dict[str, Rule] = {
    "abs": elementwise("Abs"),
    "add": elementwise("Add"),
    "and": elementwise("And"),
    "convert_element_type": convert,
    "div": elementwise("Div"),
    "eq": elementwise("Equal"),
    "erf": elementwise("Erf"),
    "exp": elementwise("Exp"),
    "floor": elementwise("Floor"),
    "ge": elementwise("GreaterOrEqual"),
    "gt": elementwise("Greater"),
    "le": elementwise("LessOrEqual"),
    "logistic": elementwise("Sigmoid"),
    "lt": elementwise("Less"),
    "max": elementwise("Max"),
    "min": elementwise("Min"),
    "mul": elementwise("Mul"),
    "ne": not_equal,
    "neg": elementwise("Neg"),
    "rsqrt": rsqrt,
    "select_n": select,
    "sign": elementwise("Sign"),
    "sqrt": elementwise("Sqrt"),
    "square": square,
    "stop_gradient": keep,
    "sub": elementwise("Sub"),
    "tanh": elementwise("Tanh"),
}


def reduce(op: str) -> Rule:
    """Returns the rule of a reduction."""

    def rule(graph: Graph, eqn: Any, x: Value) -> Value:
        axes = list(map(int, eqn.params["axes"]))
        shape = tuple(side for i, side in enumerate(x.shape) if i not in axes)
        inputs = [x, graph.constant(np.array(axes, np.int64))]
        return graph.add(op, inputs, shape, x.dtype, keepdims=0)

    return rule

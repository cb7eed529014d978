"""Translates the operations of a JAX program (its jaxpr) to ONNX nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from litv2_jax.to_onnx import products, shapes
from litv2_jax.to_onnx.arithmetic import ELEMENTWISE, Rule, reduce
from litv2_jax.to_onnx.graph import Graph, Value
from litv2_jax.to_onnx.shapes import expand, sides

# Functions that a program calls, by the parameter that has their operations.
_CALLS = {
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
}
# Those whose inputs may have sides of 1 where JAX's are longer.
_BROADCASTING: dict[str, Rule] = {
    **ELEMENTWISE,
    "broadcast_in_dim": shapes.broadcast_in_dim,
    "iota": shapes.iota,
}
_OTHERS: dict[str, Any] = {
    "concatenate": shapes.concatenate,
    "conv_general_dilated": products.convolve,
    "dot_general": products.dot_general,
    "expand_dims": shapes.reshape_rule,
    "gather": shapes.gather,
    "pad": shapes.pad,
    "reduce_max": reduce("ReduceMax"),
    "reduce_sum": reduce("ReduceSum"),
    "reshape": shapes.reshape_rule,
    "slice": shapes.slice_rule,
    "split": shapes.split,
    "squeeze": shapes.reshape_rule,
    "stack": shapes.stack,
    "transpose": shapes.transpose_rule,
    "unstack": shapes.unstack,
}


def translate(graph: Graph, jaxpr: Any, inputs: Sequence[Value]) -> list[Value]:
    """Adds the nodes of a program to a graph, and returns its outputs.

    What depends on constants alone, such as weights, is computed here.

    Args:
        graph: To add to.
        jaxpr: Closed, as `jax.make_jaxpr` returns it.
        inputs: Of the program.

    Raises:
        NotImplementedError: If there is something in the program that is not
            translated.
    """
    outputs = _translate(graph, jaxpr.jaxpr, jaxpr.consts, inputs)
    return [
        expand(graph, x, sides(aval.shape))
        for x, aval in zip(outputs, jaxpr.out_avals, strict=True)
    ]


def _translate(
    graph: Graph, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
    values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    values.update(zip(jaxpr.constvars, map(graph.constant, consts), strict=True))

    def read(variable: Any) -> Value:
        if not isinstance(variable, core.Literal):
            return values[variable]
        aval: Any = variable.aval
        return graph.constant(np.asarray(variable.val, aval.dtype))

    for eqn in jaxpr.eqns:
        outputs = _translate_equation(graph, eqn, list(map(read, eqn.invars)))
        values.update(zip(eqn.outvars, outputs, strict=True))
    return list(map(read, jaxpr.outvars))


def _translate_equation(graph: Graph, eqn: Any, inputs: list[Value]) -> Sequence[Value]:
    name = eqn.primitive.name
    if name in _CALLS:
        inner = eqn.params[_CALLS[name]]
        # Some have a ClosedJaxpr.
        jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
        return _translate(graph, jaxpr, consts, inputs)
    rule = _BROADCASTING.get(name)
    if rule is None:
        rule = _OTHERS.get(name)
        inputs = [
            expand(graph, x, sides(variable.aval.shape))
            for x, variable in zip(inputs, eqn.invars, strict=True)
        ]
    if rule is None and all(x.array is not None for x in inputs):
        return _compute(graph, eqn, inputs)
    if rule is None:
        raise NotImplementedError(
            f"The model uses jax.lax.{name}, which has no rule in "
            "litv2_jax/to_onnx/translate.py: add one, or export StableHLO."
        )
    outputs = rule(graph, eqn, *inputs)
    return outputs if isinstance(outputs, list) else [outputs]


def _compute(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    """Computes by JAX what has no rule."""
    outputs = eqn.primitive.bind(*(x.array for x in inputs), **eqn.params)
    outputs = outputs if eqn.primitive.multiple_results else [outputs]
    return list(map(graph.constant, outputs))

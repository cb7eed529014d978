"""ONNX graphs under construction: values, nodes, and what is written of them."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# The first that has Gelu, of ONNX 1.15 (2023).
OPSET = 20
# Of what is no parameter.
_CONSTANT = "constant"

# Sides of a tensor; those that depend on the batch are text, such as `b` or `49*b`.
Shape = tuple[int | str, ...]


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor.

    Attributes:
        name: In the graph, where a number makes it unique.
        shape: Its sides.
        dtype: Type of its numbers.
        array: The numbers, if they are constant.
        node: What computes it, unless it is constant or an input of the graph.
    """

    name: str
    shape: Shape
    dtype: np.dtype
    array: np.ndarray | None = None
    node: "Node | None" = None


@dataclasses.dataclass(eq=False)
class Node:
    """An operation.

    Attributes:
        op: Its name in ONNX.
        inputs: What it reads.
        attributes: As `onnx.helper.make_node` takes them.
        outputs: What it computes.
    """

    op: str
    inputs: list[Value]
    attributes: dict[str, Any]
    outputs: list[Value] = dataclasses.field(default_factory=list)


class Graph:
    """Nodes in the order of their creation, each after those that it reads."""

    def __init__(self):
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self._constants: dict[Any, Value] = {}

    def add_input(self, name: str, shape: Shape, dtype: Any) -> Value:
        """Returns an input of the graph."""
        self.inputs.append(Value(name, shape, np.dtype(dtype)))
        return self.inputs[-1]

    def constant(self, array: Any, name: str = _CONSTANT) -> Value:
        """Returns a constant; equal ones are one."""
        array = np.asarray(array)
        digest = hashlib.blake2b(array.tobytes()).digest()
        value = Value(name, array.shape, array.dtype, array)
        return self._constants.setdefault((array.dtype, array.shape, digest), value)

    def add(
        self, op: str, inputs: Sequence[Value], shape: Shape, dtype: Any, **attributes
    ) -> Value:
        """Adds a node that computes one value, and returns this."""
        (value,) = self.add_many(op, inputs, [shape], dtype, **attributes)
        return value

    def add_many(
        self,
        op: str,
        inputs: Sequence[Value],
        shapes: Sequence[Shape],
        dtype: Any,
        **attributes,
    ) -> list[Value]:
        """Adds a node that computes values of these shapes, and returns them.

        What depends on constants alone is computed here.
        """
        node = Node(op, list(inputs), attributes)
        if all(x.array is not None for x in inputs):
            names = [x.name for x in inputs if x.name != _CONSTANT]
            name = names[0] if names else _CONSTANT
            return [self.constant(array, name) for array in _compute(node, len(shapes))]
        for shape in shapes:
            value = Value(op, shape, np.dtype(dtype), node=node)
            node.outputs.append(value)
        self.nodes.append(node)
        return node.outputs

    def write(self, outputs: Mapping[str, Value]) -> onnx.ModelProto:
        """Returns the model that computes the outputs, without nodes they don't need.

        Args:
            outputs: Values by the names that they get.
        """
        nodes = self._find_needed(outputs.values())
        values = [value for node in nodes for value in (*node.inputs, *node.outputs)]
        _name({**{x.name: x for x in self.inputs}, **outputs}, values)
        arrays = {x.name: x.array for x in values if x.array is not None}
        graph = helper.make_graph(
            list(map(_write_node, nodes)),
            "main",
            list(map(_describe, self.inputs)),
            list(map(_describe, outputs.values())),
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        # The oldest format that has these operations, for older runtimes.
        model = helper.make_model_gen_version(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="litv2_jax",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _find_needed(self, outputs: Any) -> list[Node]:
        needed, nodes = set(map(id, outputs)), []
        for node in reversed(self.nodes):
            if needed.intersection(map(id, node.outputs)):
                needed.update(map(id, node.inputs))
                nodes.append(node)
        return nodes[::-1]


def _name(fixed: Mapping[str, Value], values: Sequence[Value]) -> None:
    """Numbers the names of values that would be alike, but keeps some."""
    counts = dict.fromkeys(fixed, 1)
    done = set(map(id, fixed.values()))
    for name, value in fixed.items():
        value.name = name
    for value in values:
        if id(value) not in done:
            done.add(id(value))
            number = counts[value.name] = counts.get(value.name, 0) + 1
            value.name += f"_{number}" if number > 1 else ""


def _compute(node: Node, num_outputs: int) -> list[np.ndarray]:
    """Runs a node by ONNX's reference implementation, in NumPy."""
    inputs = [f"x{i}" for i in range(len(node.inputs))]
    outputs = [f"y{i}" for i in range(num_outputs)]
    proto = helper.make_node(node.op, inputs, outputs, **node.attributes)
    run = ReferenceEvaluator(proto, opsets={"": OPSET}).run
    arrays = [value.array for value in node.inputs]
    results: Any = run(None, dict(zip(inputs, arrays, strict=True)))
    return results


def _write_node(node: Node) -> onnx.NodeProto:
    inputs, outputs = (
        [x.name for x in values] for values in (node.inputs, node.outputs)
    )
    return helper.make_node(
        node.op, inputs, outputs, name=outputs[0], **node.attributes
    )


def _describe(value: Value) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(value.name, kind, value.shape)

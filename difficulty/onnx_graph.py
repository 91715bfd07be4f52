"""A BERT-shaped encoder as an ONNX graph, written from its weights: no torch, no exporter, and only as many layers as are looked at.

Dense weights are int8 with a scale for each column, the table of words with one for each row. Half the time of fp32; the states keep a
cosine of .997 to those of fp32 at layer 3, where one scale for a whole matrix (the default of exporters) keeps .93 at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WEIGHTS, ROWS = 63, 127
"""Largest integers. Dense weights have seven bits: without VNNI a CPU adds two products in 16 bits, which eight would overflow."""
RECIPE = "int8 by column, 1"
"""Changes with the states that come out: a probe fitted on others is refused."""
_OPSETS = {"": 20, "com.microsoft": 1}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the graph needs of a model's `config.json`."""

    heads: int
    epsilon: float


def graph(tensor: Callable[[str], Floats], shape: Shape, layers: Sequence[int]) -> bytes:
    """The model file: `ids` [1, T] and `places` [T] in; out of each of `layers` (1 is the first) the mean state over the text, [1, D].

    `tensor` gives the weights by name.
    """
    from onnx import TensorProto, helper

    built = _Graph(tensor, shape)
    x = built.embedded()
    for layer in range(1, max(layers) + 1):
        x = built.layer(f"encoder.layer.{layer - 1}.", x)
        if layer in layers:
            built.node("ReduceMean", x, built.put(f"axis_{layer}", np.array([1])), name=f"layer_{layer}", keepdims=0)
    whole = helper.make_graph(
        built.nodes,
        "encoder",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "t"]),
            helper.make_tensor_value_info("places", TensorProto.INT64, ["t"]),
        ],
        [helper.make_tensor_value_info(f"layer_{layer}", TensorProto.FLOAT, [1, None]) for layer in layers],
        built.constants,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    data: bytes = helper.make_model(whole, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


@dataclass
class _Graph:
    """Nodes and constants in the making. Every method adds nodes and returns the name of their output."""

    tensor: Callable[[str], Floats]
    shape: Shape
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def embedded(self) -> str:
        """Word by row in int8, plus the place; the type of a token is always the first."""
        from onnx import TensorProto

        words = self.tensor("embeddings.word_embeddings.weight")
        scale = _scale(words, ROWS)
        places = self.tensor("embeddings.position_embeddings.weight") + self.tensor("embeddings.token_type_embeddings.weight")[0]
        rows = self.node("Gather", self.put("words", np.rint(words / scale).astype(np.int8)), "ids")
        word = self.node("Mul", self.node("Cast", rows, to=TensorProto.FLOAT), self.node("Gather", self.put("scales", scale), "ids"))
        return self.normal("embeddings.LayerNorm", self.node("Add", word, self.node("Gather", self.put("place", places), "places")))

    def layer(self, prefix: str, x: str) -> str:
        """Attention and the two dense layers, each added to what came in."""
        parts = [self.linear(f"{prefix}attention.self.{part}", x) for part in ("query", "key", "value")]
        seen = self.node("MultiHeadAttention", *parts, domain="com.microsoft", num_heads=self.shape.heads)
        y = self.node("Add", x, self.linear(f"{prefix}attention.output.dense", seen))
        y = self.normal(f"{prefix}attention.output.LayerNorm", y)
        wide = self.node("Gelu", self.linear(f"{prefix}intermediate.dense", y))
        return self.normal(f"{prefix}output.LayerNorm", self.node("Add", y, self.linear(f"{prefix}output.dense", wide)))

    def linear(self, name: str, x: str) -> str:
        """A dense layer: int8 weights with a scale for each column, activations rounded as they come."""
        weight = self.tensor(f"{name}.weight")
        scale = _scale(weight, WEIGHTS)
        rounded = np.rint(weight / scale).astype(np.int8).T
        zero = np.zeros(len(weight), dtype=np.int8)
        constants = {"q": rounded, "s": scale[:, 0], "z": zero, "b": self.tensor(f"{name}.bias")}
        inputs = [self.put(f"{name}.{end}", value) for end, value in constants.items()]
        return self.node("DynamicQuantizeMatMul", x, *inputs, domain="com.microsoft")

    def normal(self, name: str, x: str) -> str:
        """Layer normalisation."""
        scale, bias = (self.put(f"{name}.{part}", self.tensor(f"{name}.{part}")) for part in ("weight", "bias"))
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=self.shape.epsilon)

    def node(self, kind: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Any node."""
        from onnx import helper

        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def put(self, name: str, value: NDArray[Any]) -> str:
        """A constant."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def _scale(rows: Floats, largest: int) -> Floats:
    """What takes the largest number of each row to `largest`; shape [N, 1]."""
    scale: Floats = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-12) / np.float32(largest)
    return scale

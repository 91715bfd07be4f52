"""What a model computed for the tokens that it has read and written, so that a text that begins with them is read from there on.

A radix tree over token ids, as in SGLang (Zheng et al. 2023): a node holds a run of tokens and a row of the model's state for each, so a
prompt under sixty-four answers is held once. Whoever is used least recently goes first, and of a path its end before its beginning.
Each scope has a tree of its own, under one limit: what was read for one tenant is neither faster nor cheaper for another, who could tell
from it what the first one asked. Used by one thread, the one that owns the model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

NODE_BYTES = 2048
"""What a node takes beside its tensors."""


@dataclass(frozen=True, slots=True)
class Known:
    """The part of a text that is known: `state` has a row for each of its tokens."""

    state: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    """Of the token after the whole text, if that is known too."""

    def __len__(self) -> int:
        return 0 if self.state is None else len(self.state)

    def first(self, tokens: int) -> Known:
        """The same, as if no more than so many were known."""
        if self.state is None or tokens <= 0:
            return Known()
        return self if tokens >= len(self) else Known(self.state[:tokens])


@dataclass(slots=True, eq=False)
class _Node:
    tokens: list[int]
    state: torch.Tensor
    parent: _Node | None
    logits: torch.Tensor | None = None
    children: dict[int, _Node] = field(default_factory=dict)
    scope: str = ""
    """Of a root: whose tree it is."""

    @property
    def bytes(self) -> int:
        tensors = (self.state, self.logits)
        return NODE_BYTES + 8 * len(self.tokens) + sum(int(t.nbytes) for t in tensors if t is not None)


class Prefixes:
    """The trees, of `limit` bytes at most in all; with 0 they keep nothing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clear()

    def __len__(self) -> int:
        return len(self._nodes)

    def clear(self) -> None:
        """Forget everything."""
        self._roots: dict[str, _Node] = {}
        """By scope; one without children is dropped."""
        self._nodes: OrderedDict[_Node, None] = OrderedDict()
        """From the least recently used; a node stands before its parent."""
        self.bytes = 0

    def find(self, tokens: Sequence[int], scope: str = "") -> Known:
        """The longest beginning of these tokens that is known there."""
        node, found, used = self._walk(tokens, scope)
        self._touch(node)
        logits = node.logits if found == len(tokens) and used == len(node.tokens) else None
        states, above = [node.state[:used]], node.parent
        if above is None:
            return Known()
        while above.parent is not None:
            states, above = [above.state, *states], above.parent
        return Known(torch.cat(states) if len(states) > 1 else states[0], logits)

    def keep(self, tokens: Sequence[int], state: torch.Tensor, logits: torch.Tensor | None = None, scope: str = "") -> None:
        """Remember `state`, that of the last tokens of these; a copy is kept. Nothing is where that of the first ones is not known."""
        node, found, used = self._walk(tokens, scope)
        first = len(tokens) - len(state)
        if found < first or int(state.nbytes) >= self.limit:
            return
        if used < len(node.tokens):
            node = self._split(node, used)
        if found < len(tokens):
            node = self._add(_Node(list(tokens[found:]), state[found - first :].clone(), node))
        if logits is not None and node.logits is None and node.parent is not None:
            self.bytes -= node.bytes
            node.logits = logits.clone()
            self.bytes += node.bytes
        self._touch(node)
        self._shrink()

    def _walk(self, tokens: Sequence[int], scope: str) -> tuple[_Node, int, int]:
        """The deepest node on these tokens' way, how many of them are known up to where it is left, and how many of its own these are."""
        node, at = self._roots.get(scope) or _Node([], torch.empty(0), None, scope=scope), 0
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            used = _common(child.tokens, tokens, at)
            node, at = child, at + used
            if used < len(child.tokens):
                return node, at, used
        return node, at, len(node.tokens)

    def _split(self, node: _Node, at: int) -> _Node:
        """The beginning of a node as one of its own, the node's parent from now on. Both get memory of their own, so that each can go."""
        assert node.parent is not None, "the root has no tokens"
        self.bytes -= node.bytes
        upper = _Node(node.tokens[:at], node.state[:at].clone(), node.parent)
        node.tokens, node.state, node.parent = node.tokens[at:], node.state[at:].clone(), upper
        upper.children[node.tokens[0]] = node
        self.bytes += node.bytes
        return self._add(upper)

    def _add(self, node: _Node) -> _Node:
        assert node.parent is not None
        node.parent.children[node.tokens[0]] = node
        if node.parent.parent is None:
            self._roots[node.parent.scope] = node.parent
        self._nodes[node] = None
        self.bytes += node.bytes
        return node

    def _touch(self, node: _Node) -> None:
        while node.parent is not None:
            self._nodes.move_to_end(node)
            node = node.parent

    def _shrink(self) -> None:
        while self.bytes > self.limit:
            node, _ = self._nodes.popitem(last=False)
            assert node.parent is not None
            assert not node.children, "whoever is below was used no later"
            del node.parent.children[node.tokens[0]]
            if node.parent.parent is None and not node.parent.children:
                del self._roots[node.parent.scope]
            self.bytes -= node.bytes


def _common(run: Sequence[int], tokens: Sequence[int], at: int) -> int:
    """How many tokens of a run stand in `tokens` from there on."""
    if list(tokens[at : at + len(run)]) == list(run):
        return len(run)
    return next((i for i, (a, b) in enumerate(zip(run, tokens[at:], strict=False)) if a != b), min(len(run), len(tokens) - at))

"""Arithmetic expressions, read and computed exactly: a recursive-descent parser over + - * / and brackets, nothing else.

    ExpressionError             what could not be read, or was divided by zero

Input is hostile by assumption: depth and length are bounded, numbers have at most 12 digits, and nothing is evaluated by Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

DEEPEST = 40
LONGEST = 400


class ExpressionError(ValueError):
    """The text is no expression, or its value does not exist."""


@dataclass(frozen=True)
class Join:
    """Two expressions under an operator."""

    operator: str
    left: Expression
    right: Expression


Expression = int | Join

_TOKEN = re.compile(r"\s*(?:(\d{1,12})(?!\d)|([-+*/()]))")


def parse_expression(text: str) -> Expression:
    """The tree of an expression such as "(10-4)*(13-9)"."""
    if len(text) > LONGEST:
        raise ExpressionError(f"an expression of {len(text)} characters is too long; {LONGEST} is the most")
    tokens = _tokens(text.strip().rstrip("."))
    reader = _Reader(tokens)
    tree = reader.sum(0)
    if reader.position != len(tokens):
        raise ExpressionError(f"cannot read {tokens[reader.position]!r} in {text.strip()[:80]!r}")
    return tree


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"cannot read {text[position : position + 20]!r} as arithmetic")
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


@dataclass
class _Reader:
    tokens: list[str]
    position: int = 0

    def sum(self, depth: int) -> Expression:
        tree = self.product(depth)
        while self._peek() in ("+", "-"):
            tree = Join(self._next(), tree, self.product(depth))
        return tree

    def product(self, depth: int) -> Expression:
        tree = self.atom(depth)
        while self._peek() in ("*", "/"):
            tree = Join(self._next(), tree, self.atom(depth))
        return tree

    def atom(self, depth: int) -> Expression:
        if depth > DEEPEST:
            raise ExpressionError(f"brackets nest deeper than {DEEPEST}")
        token = self._next()
        if token.isdigit():
            return int(token)
        if token != "(":
            raise ExpressionError(f"found {token!r} where a number or a bracket should be")
        tree = self.sum(depth + 1)
        if self._next() != ")":
            raise ExpressionError("a bracket is not closed")
        return tree

    def _peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _next(self) -> str:
        if self.position >= len(self.tokens):
            raise ExpressionError("the expression ends too early")
        self.position += 1
        return self.tokens[self.position - 1]


def leaves(tree: Expression) -> list[int]:
    """The numbers of an expression, from left to right."""
    return [tree] if isinstance(tree, int) else leaves(tree.left) + leaves(tree.right)


def value(tree: Expression) -> Fraction:
    """The exact value; raises ExpressionError on a division by zero."""
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = value(tree.left), value(tree.right)
    if tree.operator == "/":
        if right == 0:
            raise ExpressionError("division by zero")
        return left / right
    return {"+": left + right, "-": left - right, "*": left * right}[tree.operator]

"""What a request makes anew: properties worked out once, and values that are frozen to the type checker only."""

from __future__ import annotations

from dataclasses import replace

from difficulty.frozen import frozen
from difficulty.once import once


@frozen(slots=False)
class Square:
    side: float
    looked: list[str]

    @once
    def area(self) -> float:
        """How large it is."""
        self.looked.append("area")
        return self.side**2


@frozen
class Point:
    x: int
    y: int = 0


def test_it_is_worked_out_once_for_each_value() -> None:
    """Asked again it is there; a copy with another field has its own."""
    square = Square(3.0, [])
    assert (square.area, square.area, square.looked) == (9.0, 9.0, ["area"])
    assert (replace(square, side=2.0).area, square.looked) == (4.0, ["area", "area"])


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    """As frozen dataclasses are, so that they can be keys."""
    assert Point(1) == Point(1, 0) != Point(1, 1)
    assert {Point(1): "here"}[Point(1)] == "here"
    assert not hasattr(Point(1), "__dict__")

"""How a puzzle is asked: the phrasings that the models were trained on, as text with two slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Phrasing(NamedTuple):
    """Text with slots {numbers} and {target}, and how the numbers are joined ("4, 9 and 10" has comma ", " and last " and ")."""

    text: str
    comma: str = " "
    last: str = " "


PHRASINGS = (
    Phrasing("Use {numbers} to make {target}."),
    Phrasing("Make {target} from {numbers}.", ", ", " and "),
    Phrasing("Numbers: {numbers}. Target: {target}."),
    Phrasing("Use {numbers} to get {target}.", ", ", ", "),
    Phrasing("Can you make {target} with {numbers}?", ", ", " and "),
    Phrasing("How can I get {target} from {numbers}?"),
    Phrasing("Combine {numbers} to reach {target}.", ", ", " and "),
    Phrasing("Please make {target} using each of {numbers} exactly once.", ", ", " and "),
)


def render(numbers: Sequence[object], target: object, phrasing: Phrasing = PHRASINGS[0]) -> str:
    """The puzzle as a prompt."""
    *head, final = [str(number) for number in numbers]
    joined = phrasing.comma.join(head) + (phrasing.last if head else "") + final
    return phrasing.text.format(numbers=joined, target=target)

"""What an answer says, apart from how it says it: the form in which answers are compared and votes are counted.

Two texts with the same normal form count as the same answer. Where nothing marks an answer (no pattern, no JSON, no \\boxed{},
no "answer is", no number), the whole text is the answer, so that prose and refusals rarely agree by accident.

Not here: whether an answer is right (verifiers), or who wins a vote (`router/strategies/`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import deque
from functools import lru_cache
from typing import Any

from adapters.types import Choice

NUMBER = r"(?:(?<![\w).])[-+])?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d)"
"""A decimal number, with thousands commas or without; a minus after a digit or a bracket is a subtraction, not a sign."""

_LAST_NUMBER = re.compile(NUMBER)
_QUANTITY = re.compile(rf"[$€£]?\s?({NUMBER})(?:\s?%|\s[a-z][a-z ]*)?", re.IGNORECASE)
_HASHES = re.compile(r"####\s*(\S.*)")
_SAID = re.compile(r"\banswer\b[*_\s]*(?:is|:|=)[*_:\s]*(\S.*)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL | re.IGNORECASE)
_LATEX = (
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\text\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\[,!;:$ ]|\\left|\\right"), ""),
)


@lru_cache(maxsize=256)  # a vote looks at each of its answers several times
def normalise(text: str, pattern: str | None = None, *, guess: bool = True) -> str:
    """The answer in `text`, in the form in which answers are compared.

    With a pattern, the last match's last group that took part (the whole match without groups). A text that the pattern does
    not find counts as a whole. Without one, by the first that is there: a JSON object or array, \\boxed{}, "#### X",
    "the answer is X", the last number (not in a text with a code block, and only by `guess`), the whole text.
    """
    if pattern is not None:
        found = _last(re.compile(pattern), text)
        return _plain(text) if found is None else _value(found)
    for find in (_json, _marked, _number) if guess else (_json, _marked):
        if answer := find(text):
            return answer
    return _plain(text)


def last_number(text: str) -> float | None:
    """The number that an answer comes to: its marked answer if that is a number, else the last one in the text."""
    marked = _marked(text)
    found = _LAST_NUMBER.findall(text if marked is None else marked)
    return float(found[-1].replace(",", "")) if found else None


def strip_fence(text: str) -> str:
    """The inside of the last Markdown code block, or the text itself where there is none."""
    blocks = _FENCE.findall(text)
    return str(blocks[-1]) if blocks else text


def is_finished(choice: Choice) -> bool:
    """Whether an answer came to its end; one that ran out of tokens or was cut off is only the beginning of an answer."""
    return choice.finish_reason not in ("length", "cancelled")


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    """What the last match captured."""
    matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0][matches[0].lastindex or 0] if matches else None


def _json(text: str) -> str | None:
    """Objects and arrays with keys sorted and 1.0 equal to 1; a bare number or string is not treated as JSON."""
    body = strip_fence(text).strip()
    if not body.startswith(("{", "[")):
        return None
    try:
        return json.dumps(_integral(json.loads(body)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _marked(text: str) -> str | None:
    """An answer that the text points out itself."""
    if (found := _boxed(text) or _last(_HASHES, text)) is not None:
        return _value(found)
    said = _last(_SAID, text)
    return None if said is None else _value(_SENTENCE_END.split(said)[0])


def _boxed(text: str) -> str | None:
    """The inside of the last \\boxed{}, braces balanced."""
    start = text.rfind("\\boxed{")
    depth = 0
    for i in range(start + 6, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 7 : i]
    return None


def _number(text: str) -> str | None:
    found = None if "```" in text else _last(_LAST_NUMBER, unicodedata.normalize("NFKC", text).replace("−", "-"))
    return None if found is None else _canonical(found)


def _value(text: str) -> str:
    """An extracted answer: a number or an amount as a bare number, anything else as plain text."""
    for latex, plain in _LATEX:
        text = latex.sub(plain, text)
    text = _plain(text)
    amount = _QUANTITY.fullmatch(text)
    return _canonical(amount[1]) if amount else text


def _canonical(number: str) -> str:
    """ "1,000.0", "+1000" and "01000" are "1000". By text, not by float: long integers stay exact."""
    sign = "-" if number.startswith("-") else ""
    whole, _, part = number.lstrip("+-").replace(",", "").partition(".")
    value = (whole.lstrip("0") or "0") + (f".{part.rstrip('0')}" if part.strip("0") else "")
    return sign + value if value != "0" else "0"


def _plain(text: str) -> str:
    """Case, width, spacing, emphasis and closing punctuation taken off; "(B)" is "b"."""
    plain = " ".join(unicodedata.normalize("NFKC", text).replace("−", "-").casefold().split())
    plain = plain.strip("*_`\"' ").rstrip(".,;:!? ").strip("*_`\"'$ ")
    choice = re.fullmatch(r"\(?([a-z])\)", plain)
    return choice[1] if choice else plain

"""Text that grows: whole characters, no part of a stop string, and the same whether it is taken piece by piece or at the end."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from adapters.decoding.text import GrowingText

texts = st.text(alphabet="ab\né👍 ", max_size=30)


def utf8(ids: Sequence[int]) -> str:
    """A tokenizer of bytes, where a character may take several tokens."""
    return bytes(ids).decode("utf-8", errors="replace")


@given(texts, st.lists(st.text(alphabet="ab\né👍 ", min_size=1, max_size=4), max_size=3))
def test_pieces_add_up_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    """Whatever is passed on is right for good: no broken character, nothing of a stop string, and all of it at the end."""
    growing, pieces = GrowingText(utf8, stops), []
    for byte in text.encode():
        growing.push([byte])
        pieces.append(growing.take(rest=growing.stopped_by is not None))
        if growing.stopped_by is not None:
            break
    else:
        growing.push([], last=True)
        pieces.append(growing.take(rest=True))
    # A stop string is complete with its last character; of two that end there, the one that begins first counts.
    ends = {end: stop for end in range(len(text), 0, -1) for stop in sorted(stops, key=len) if text[:end].endswith(stop)}
    expected = text[: min(ends) - len(ends[min(ends)])] if ends else text
    assert "".join(pieces) == growing.text == expected
    assert growing.stopped_by == (ends[min(ends)] if ends else None)


@given(texts)
def test_all_at_once_is_the_same_as_one_by_one(text: str) -> None:
    """An answer nobody watches is decoded once, to the same text."""
    growing = GrowingText(utf8)
    growing.push(list(text.encode()), last=True)
    assert growing.text == text


def test_a_broken_character_at_the_end_is_not_lost() -> None:
    """An answer cut within a character shows the replacement sign, once, and only at its end."""
    growing = GrowingText(utf8)
    growing.push([0x61])
    growing.push([0xF0])
    assert growing.take() == "a"
    growing.push([], last=True)
    assert growing.take(rest=True) == "\ufffd"


def test_a_continued_text_decides_the_first_space() -> None:
    """A tokenizer of words puts a space between the context and the first new word, unless the context already ended in one."""

    def words(ids: Sequence[int]) -> str:
        return " ".join("abc"[i] for i in ids)

    for spaces, expected in (("", " b c"), (" ", "b c"), ("\n", " b c")):
        growing = GrowingText(words, context=[0], spaces=spaces)
        growing.push([1])
        growing.push([2], last=True)
        assert growing.text == expected

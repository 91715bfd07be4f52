"""Text that grows with its tokens: whole characters only, cut at the first stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out."""


class GrowingText:
    """The text of one answer. A token is decoded together with those just before it, since spaces and characters depend on them.

    `text` holds what is decided; `take` gives what of it can be passed on and has not been yet. An answer that continues a text
    is given that text's last tokens as `context`, and in `spaces` the spaces at its end, which a tokenizer of words does not keep.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = (), context: Sequence[int] = (), spaces: str = "") -> None:
        self._decode, self._stop = decode, stop
        self._ids = list(context)
        self._known = decode(self._ids) if context else ""
        self._begin = len(self._ids)
        self._spaces = "" if self._known.endswith(spaces) else spaces
        self._taken = 0
        self.text = ""
        self.stopped_by: str | None = None

    def push(self, tokens: Sequence[int], *, last: bool = False) -> None:
        """Add tokens; the `last` ones also add what is left of a broken character."""
        self._ids.extend(tokens)
        window = self._decode(self._ids)
        if len(window) == len(self._known) or (window.endswith("\ufffd") and not last):
            return
        fresh, self._ids = window[len(self._known) :], self._ids[self._begin :]
        self._known, self._begin = "" if last else self._decode(self._ids), len(self._ids)
        self._add(fresh.removeprefix(self._spaces))
        self._spaces = ""

    def take(self, *, rest: bool = False) -> str:
        """The text not yet passed on, without an end that may turn out to begin a stop string (with it, if this is the `rest`)."""
        end = len(self.text) - (0 if rest else max((_overlap(self.text, stop) for stop in self._stop), default=0))
        piece, self._taken = self.text[self._taken : end], end
        return piece

    def _add(self, fresh: str) -> None:
        before, self.text = len(self.text), self.text + fresh
        found = [(self.text.find(stop, max(0, before - len(stop) + 1)), stop) for stop in self._stop]
        at, stop = min(((at, stop) for at, stop in found if at >= 0), default=(-1, ""))
        if at >= 0:
            self.text, self.stopped_by = self.text[:at], stop


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, but not all of it."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)

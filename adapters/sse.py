"""Server-sent events, as far as chat streams use them: the `data` of each event, however the bytes are cut.

Comments, event names, ids and retry hints are passed over. Source: WHATWG HTML, section 9.2 (without the lone carriage return
as a line end, which no chat server sends).
"""

from __future__ import annotations

MAX_LINE_BYTES = 8 << 20
"""A server that never ends its line is stopped here, before it fills the memory."""


class LineTooLong(ValueError):
    """The stream has a line beyond `MAX_LINE_BYTES`."""


class EventParser:
    """Feed it chunks of bytes; it gives the data of every event that is complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that this chunk completes, in order."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise LineTooLong(f"a line of more than {MAX_LINE_BYTES} bytes")
        return [data for line in lines if (data := self._line(line.removesuffix(b"\r"))) is not None]

    def finish(self) -> list[str]:
        """The last event of a stream that ends without the empty line after it."""
        return self.feed(b"\n\n")

    def _line(self, line: bytes) -> str | None:
        """The data of the event that this line ends, if it ends one with data."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            return data.decode("utf-8", "replace")
        return None

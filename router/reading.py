"""How requests are read from the wire: by httptools, which is C, held to a bound that it does not have itself."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class BoundedReader(HttpToolsProtocol):
    """Uvicorn's reader; a connection whose headers do not end within `max_head_bytes` is answered 400 and closed.

    `gate.py` weighs the headers that do end, and says so with its own status.
    """

    max_head_bytes = 64 << 10
    _head_bytes = 0
    """Received since the last request's body ended, while its headers have not."""

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self.max_head_bytes and not self.transport.is_closing():
            self.send_400_response("The headers do not end.")

    def on_headers_complete(self) -> None:
        """From here on it is body, whose length `server.max_body_mb` bounds."""
        self._head_bytes = -1 << 62
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next byte is of another request."""
        self._head_bytes = 0
        super().on_message_complete()


def reader(max_head_bytes: int) -> type[BoundedReader]:
    """The class that uvicorn makes one of for each connection."""
    return type("Reader", (BoundedReader,), {"max_head_bytes": max_head_bytes})

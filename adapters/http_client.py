"""POST requests to one server over HTTP/1.1, kept alive: what a backend needs of a client, and no more.

A strategy makes many calls for one request, so that the client is most of what a call costs: aiohttp takes several times as much CPU
as this (docs/benchmarks/overhead.md). httptools (llhttp, in C) reads, aiohappyeyeballs connects, TLS is the standard library's. There are
no redirects, cookies or proxies. What a server may send is bounded wherever nobody has asked for more; time is bounded around it, by
`guarded.py`. Sources: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache, partial
from typing import cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

IDLE_S = 15.0
"""So long a connection is kept for the next request; servers close them after 5 s (uvicorn) to minutes."""
OTHER_FAMILY_S = 0.25
"""So long after IPv6 the server is tried by IPv4 as well, and the other way round (RFC 8305)."""
MOST_HEAD = 64 << 10
"""Bytes of one line of a head, or of whatever else is not the body."""
MOST_LINES = 256
"""Header lines of a response, trailers included."""
HELD = 1 << 20
"""Bytes of a body that wait to be read, before the server is made to wait."""
INFLATED = 16 << 20
"""Bytes that one piece of a compressed body may become."""
CONTROL = re.compile(r"[\r\n\0]")


class Disconnected(ConnectionError):
    """The connection was closed before the response was over."""


class NotHttp(ConnectionError):
    """What came is no HTTP response, or none that is read here."""


class Server:
    """A server's address, and the connections to it. They belong to the loop of the first request.

    Raises ValueError for an address without a host, or with a port that is none, and for a header that holds a line break.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, connect_s: float) -> None:
        address = urlsplit(url)
        if not address.hostname:
            raise ValueError("no host in the address")
        self._host, self._tls = address.hostname, address.scheme == "https"
        self._port = address.port or (443 if self._tls else 80)
        self._head, self._connect_s = _head(address, headers), connect_s
        self._open, self._idle = set[_Connection](), list[_Connection]()  # the last one was used last
        self._sweeping: asyncio.TimerHandle | None = None
        self.closed = False

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> Posted:
        """The response to a request, as a context; leaving it closes the connection of one that is not over."""
        more = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) if headers else ""
        return Posted(self, b"%sContent-Length: %d\r\n%s\r\n%s" % (self._head, len(body), more.encode(), body))

    def close(self) -> None:
        """Close all connections: requests under way fail with Disconnected, as do later ones."""
        self.closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._open):
            connection.close()

    async def take(self) -> _Connection:
        """A connection that nobody uses: the one that was used last, whose server is the least likely to close it just now."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale:
                return connection
            connection.close()
        async with asyncio.timeout(self._connect_s):
            connection = await self._connect()
        if self.closed:
            connection.close()
            raise Disconnected("it has been closed")
        return connection

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection whose response is over, and close any other."""
        if self.closed or not connection.rest():
            connection.close()
            return
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweep()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        sock = await start_connection(found, happy_eyeballs_delay=OTHER_FAMILY_S, interleave=1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tls, name = (_tls(), self._host) if self._tls else (None, None)
        try:
            _, connection = await loop.create_connection(partial(_Connection, self), sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        self._open.add(connection)
        return connection

    def forget(self, connection: _Connection) -> None:
        """It is closed."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self) -> None:
        """Close what was idle for long, and look again when the next one will be."""
        for connection in self._idle:
            if connection.stale:
                connection.close()
        self._idle = [connection for connection in self._idle if not connection.stale]
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_at(self._idle[0].idle_since + IDLE_S, self._sweep) if self._idle else None


class Posted:
    """A request on its way, and then its response."""

    def __init__(self, server: Server, message: bytes) -> None:
        self._server, self._message = server, message

    async def __aenter__(self) -> Response:
        """The response, with its head. Raises OSError where there is none."""
        self._connection = await self._server.take()
        response = self._connection.ask(self._message)
        try:
            await response.head()
        except BaseException:
            self._connection.close()
            raise
        return response

    async def __aexit__(self, *_: object) -> None:
        self._server.give_back(self._connection)


class _Connection(asyncio.Protocol):
    """One connection, with at most one request at a time."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.idle_since = 0.0
        self._server, self._loop = server, asyncio.get_running_loop()
        self._response: Response | None = None

    @property
    def stale(self) -> bool:
        """Closed, or idle for so long that its server may be about to close it."""
        return self.transport.is_closing() or self._loop.time() - self.idle_since >= IDLE_S

    def ask(self, message: bytes) -> Response:
        """Send a request."""
        self._response = Response(self.transport, self._loop)
        self.transport.write(message)
        return self._response

    def rest(self) -> bool:
        """Leave the response. False where the connection cannot be used again."""
        response, self._response = self._response, None
        self.idle_since = self._loop.time()
        return response is not None and response.leave() and not (self.transport.is_closing() or self.transport.get_write_buffer_size())

    def close(self) -> None:
        """At once, whatever is under way."""
        if self._response is not None:
            self._response.fail(Disconnected, "it has been closed")
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Of asyncio. What comes unasked is no answer to the next request."""
        if self._response is None or not self._response.feed(data):
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Of asyncio."""
        self._server.forget(self)
        if self._response is not None:
            self._response.cut(error)


class Response:
    """A server's response: its head, and its body as it comes. Its `on_` methods are what httptools calls."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        """By name, in lower case; of several that are alike, the last."""
        self.over = False
        self._transport, self._loop = transport, loop
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._lines: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._pieces: list[bytes] = []
        self._held = self._steps = self._since_step = 0
        self._inflate: zlib._Decompress | None = None
        self._paused = self._reusable = False
        self._failed: tuple[type[ConnectionError], str] | None = None
        self._news: asyncio.Future[None] | None = None

    @property
    def reason(self) -> str:
        """The words after the status."""
        return self._reason.decode("latin-1")

    @property
    def content_type(self) -> str:
        """In lower case and without parameters; empty where the server does not say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def head(self) -> None:
        """Wait for the head. Raises NotHttp or Disconnected."""
        while not self.status:
            await self._more()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, decompressed. Raises NotHttp or Disconnected, but not before all that came was given."""
        while True:
            if self._pieces:
                piece = b"".join(self._pieces)
                self._pieces.clear()
                self._held = 0
                if self._paused:
                    self._paused = False
                    self._transport.resume_reading()
                yield piece
            elif self.over:
                return
            else:
                await self._more()

    async def _more(self) -> None:
        """Wait until something has changed."""
        if self._failed is not None:
            kind, why = self._failed
            raise kind(why)
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    # --- what the connection tells ------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bool:
        """Take what came. False where the connection is of no use any more."""
        if self._parser is None or self.over:
            self._reusable = False
            return self.over  # a full answer is read first
        steps = self._steps
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._reusable = False
            self.fail(NotHttp, str(error.__context__ or error))
        self._since_step = 0 if self._steps != steps else self._since_step + len(data)
        if self._since_step > MOST_HEAD:
            self.fail(NotHttp, f"a line of more than {MOST_HEAD >> 10} KiB")
        self._tell()
        return self._failed is None

    def cut(self, error: Exception | None) -> None:
        """The connection is closed; for a body without a length this is its end."""
        unsaid = "content-length" not in self.headers and "chunked" not in self.headers.get("transfer-encoding", "")
        if self.status and unsaid and error is None and not self.over:
            self._end()
            self._tell()
        self.fail(Disconnected, "it was closed by the server" if error is None else str(error))

    def fail(self, kind: type[ConnectionError], why: str) -> None:
        """It does not go on; of no effect on a response that is over, or has failed."""
        if not self.over and self._failed is None:
            self._failed, self._parser = (kind, why), None
            self._tell()

    def leave(self) -> bool:
        """Nothing of it is read any more. Whether its connection can be used again."""
        self._parser = None  # which refers back to it
        return self.over and self._reusable and not self._paused

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # --- what the parser tells ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response, or what stands behind it."""
        if self.over:
            raise NotHttp("more than one answer")

    def on_status(self, words: bytes) -> None:
        """A part of the reason."""
        self._reason += words

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head, or of the trailer."""
        self._steps += 1
        self._lines.append((name, value))
        if len(self._lines) > MOST_LINES:
            raise NotHttp(f"more than {MOST_LINES} header lines")

    def on_headers_complete(self) -> None:
        """The head is there; one of an interim response (1xx) is passed over."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._lines}
        coding = self.headers.get("content-encoding", "identity").lower()
        if coding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out by itself which
        elif coding not in ("identity", ""):
            raise NotHttp(f"a body in '{coding[:40]}', which was not asked for")

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._steps += 1

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._steps += 1
        if self._inflate is not None:
            data = self._inflated(data)
        self._pieces.append(data)
        self._held += len(data)
        if self._held > HELD and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The response is over, or an interim one is."""
        assert self._parser is not None
        if self.status:
            self._reusable = self._parser.should_keep_alive()
            self._end()
        else:
            self._lines.clear()
            self._reason = b""

    def _end(self) -> None:
        if self._inflate is not None and not self._inflate.eof:
            self.fail(NotHttp, "a compressed body that does not end")
        self.over = self._failed is None

    def _inflated(self, data: bytes) -> bytes:
        assert self._inflate is not None
        try:
            inflated = self._inflate.decompress(data, INFLATED)
        except zlib.error as error:
            raise NotHttp(str(error)) from None
        if self._inflate.unconsumed_tail:
            raise NotHttp(f"compressed to less than a {INFLATED // len(data)}th")
        return inflated


def _head(address: SplitResult, headers: Mapping[str, str]) -> bytes:
    """All of a request's head that is the same for each."""
    host = f"[{address.hostname}]" if ":" in (address.hostname or "") else (address.hostname or "").encode("idna").decode()
    port = "" if address.port in (None, 443 if address.scheme == "https" else 80) else f":{address.port}"
    path = quote(address.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{address.query}" if address.query else "")
    lines = {"Host": host + port, "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "outlay"}
    if address.username is not None:
        user = f"{unquote(address.username)}:{unquote(address.password or '')}"
        lines["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
    said = {name.lower() for name in headers}
    lines = {**{name: value for name, value in lines.items() if name.lower() not in said}, **headers}
    for name, value in lines.items():
        if CONTROL.search(name + value):
            raise ValueError(f"the header {name!r} holds a line break")
    return "".join([f"POST {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lines.items())]).encode()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context

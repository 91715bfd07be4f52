"""The HTTP client, against servers that say byte by byte what the tests want."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ssl
import weakref
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from adapters import http_client
from adapters.errors import AdapterError
from adapters.http_client import HELD, MOST_HEAD, MOST_LINES, Disconnected, NotHttp, Response, Server
from adapters.openai import OpenAIBackend, OpenAIOptions

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
TWO = OK + b"Content-Length: 2\r\n\r\nok"


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> Any:
    """Servers run on uvloop, everything else on asyncio's own loop."""
    return request.param()


class Scripted:
    """A server: `asked` has the requests, whole; `connections` how many there were, `left` is set when a client has gone."""

    def __init__(self, script: Callable[[Scripted, asyncio.StreamWriter], Coroutine[Any, Any, None]]) -> None:
        self.asked: list[bytes] = []
        self.connections = 0
        self.left, self.go = asyncio.Event(), asyncio.Event()
        self.url = ""
        self._script = script
        self._under_way = set[asyncio.Task[None] | None]()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each request has the script run once."""
        self.connections += 1
        self._under_way.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                self.asked.append(head + await reader.readexactly(length))
                await self._script(self, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()
            self._under_way.discard(asyncio.current_task())

    async def ended(self) -> None:
        """All that was under way is over."""
        self.go.set()
        await asyncio.wait_for(asyncio.gather(*[task for task in self._under_way if task]), 5)
        await asyncio.sleep(0)


def says(*pieces: bytes, close: bool = False) -> Callable[[Scripted, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    """A script that writes these pieces, each by itself, and may then close the connection."""

    async def script(server: Scripted, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return script


@asynccontextmanager
async def serving(script: Any, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Scripted]:
    """The server under way."""
    scripted = Scripted(script)
    server = await asyncio.start_server(scripted.connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scripted.url = f"http{'s' if tls else ''}://{host}:{port}/v1/chat"
    try:
        yield scripted
    finally:
        await scripted.ended()
        server.close()


@asynccontextmanager
async def client(url: str, headers: dict[str, str] | None = None, connect_s: float = 5) -> AsyncIterator[Server]:
    """A client of it, closed in the end."""
    server = Server(url, headers or {}, connect_s=connect_s)
    try:
        yield server
    finally:
        server.close()


async def read(server: Server, body: bytes = b"{}") -> tuple[int, bytes]:
    """Status and body of one request."""
    async with server.post(body) as response:
        return response.status, b"".join([piece async for piece in response.pieces()])


async def outcome(*pieces: bytes, close: bool = False) -> tuple[Any, int]:
    """What becomes of a response in these pieces, asked for twice; and over how many connections."""
    async with serving(says(*pieces, close=close)) as there, client(there.url) as server:
        said: list[Any] = []
        for _ in range(2):
            try:
                said.append(await read(server))
            except ConnectionError as error:
                said.append(type(error))
        assert said[0] == said[1]
        return said[0], there.connections


async def test_what_is_sent() -> None:
    """The head has what a server needs, once; what the caller gives replaces it, whatever its case."""
    async with serving(says(TWO)) as there, client(there.url, {"user-agent": "mine", "X-Key": "ü"}) as server:
        async with server.post(b"{1}", {"traceparent": "00-1"}) as response:
            assert (response.status, response.reason) == (200, "OK")
        head, _, body = there.asked[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /v1/chat HTTP/1.1"
        assert sorted(lines[1:]) == sorted(
            ["Host: " + there.url.split("/")[2], "Accept: */*", "Accept-Encoding: identity", "user-agent: mine", "X-Key: ü",
             "Content-Length: 3", "traceparent: 00-1"]
        )  # fmt: skip
        assert body == b"{1}"


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://a.example/v1", "a.example", "/v1"),
        ("https://a.example:444", "a.example:444", "/"),
        ("http://[::1]:80/a b?c=d", "[::1]", "/a%20b?c=d"),
        ("http://bücher.example/x", "xn--bcher-kva.example", "/x"),
    ],
)
def test_addresses(url: str, host: str, path: str) -> None:
    """Host and path as HTTP wants them."""
    head = Server(url, {}, connect_s=1)._head.decode()
    assert head.startswith(f"POST {path} HTTP/1.1\r\n")
    assert f"\r\nHost: {host}\r\n" in head


def test_a_user_in_the_address_is_sent_as_basic_unless_a_key_is_given() -> None:
    """As other clients do it."""
    url = "http://me:p%40ss@a.example/v1"
    assert b"Authorization: Basic bWU6cEBzcw==\r\n" in Server(url, {}, connect_s=1)._head
    assert b"Basic" not in Server(url, {"authorization": "Bearer x"}, connect_s=1)._head


@pytest.mark.parametrize("wrong", [{"base_url": "http://"}, {"base_url": "http://a:99999"}, {"headers": {"x-a": "1\r\nx-b: 2"}}])
def test_what_cannot_be_sent_is_refused_when_it_is_built(wrong: dict[str, Any]) -> None:
    """Before the first request, with the place in the configuration and without the value, which may be a secret."""
    with pytest.raises(AdapterError, match=r"^backends\.b: ") as refused:
        OpenAIBackend("b", OpenAIOptions(**{"model": "m", "base_url": "http://a", **wrong}))
    assert "x-b: 2" not in str(refused.value)


# --- what is understood -----------------------------------------------------------------------------------------------

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: x\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + TWO
GZIP, DEFLATE = gzip.compress(b"ok", mtime=0), zlib.compress(b"ok")
ZIPPED = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(GZIP), GZIP)
DEFLATED = OK + b"content-encoding: Deflate\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(DEFLATE), DEFLATE)


@pytest.mark.parametrize("sent", [TWO, CHUNKED, CONTINUED, ZIPPED, DEFLATED])
async def test_bodies_in_their_forms(sent: bytes) -> None:
    """With a length, in chunks, after interim responses, compressed though not asked for: all over one connection."""
    assert await outcome(sent) == ((200, b"ok"), 1)


@given(st.sampled_from([TWO, CHUNKED, CONTINUED, ZIPPED, DEFLATED]), st.sets(st.integers(1, 200), max_size=30))
def test_nothing_depends_on_how_the_bytes_are_cut(sent: bytes, cuts: set[int]) -> None:
    """Fed in any pieces, a response is the same, and its connection can be used again."""

    async def fed() -> tuple[int, bytes, bool]:
        response = Response(Deaf(), asyncio.get_running_loop())
        ends = [*sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
        assert all(response.feed(sent[start:end]) for start, end in zip([0, *ends], ends, strict=False))
        return response.status, b"".join([piece async for piece in response.pieces()]), response.leave()

    assert asyncio.run(fed()) == (200, b"ok", True)


@pytest.mark.parametrize("sent", [OK + b"\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok", OK + b"Connection: close\r\n\r\nok"])
async def test_a_body_without_a_length_ends_with_its_connection(sent: bytes) -> None:
    """Of old servers; each request has a connection of its own."""
    assert await outcome(sent, close=True) == ((200, b"ok"), 2)


async def test_a_server_that_says_close_is_not_asked_again_over_the_same() -> None:
    """Though it leaves closing to us."""
    assert await outcome(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok") == ((200, b"ok"), 2)


async def test_an_empty_body() -> None:
    """No content is a response."""
    assert await outcome(b"HTTP/1.1 204 No Content\r\n\r\n") == ((204, b""), 1)


# --- what is not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"", Disconnected),
        (b"HTTP/1.1 200", Disconnected),
        (OK + b"Content-Length: 3\r\n\r\nok", Disconnected),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Disconnected),
        (b"SSH-2.0-OpenSSH_9.6\r\n", NotHttp),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", NotHttp),
        (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", NotHttp),
        (OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\nok", NotHttp),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", NotHttp),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"ok" * 9)[:-9], NotHttp),
        (OK + b"".join(b"X-%d: y\r\n" % i for i in range(MOST_LINES + 1)) + b"\r\n", NotHttp),
        (OK + b"X: " + b"y" * 2 * MOST_HEAD, NotHttp),
    ],
)  # fmt: skip
async def test_what_is_no_response_fails_and_costs_its_connection(sent: bytes, kind: type[Exception]) -> None:
    """Cut off, not HTTP, ambiguous, in a coding that was not asked for, or a head without end: said as what it is."""
    assert await outcome(*[sent[start : start + 4096] for start in range(0, len(sent), 4096)] or [b""], close=True) == (kind, 2)


async def test_what_inflates_without_measure_is_stopped() -> None:
    """A small piece does not become all of the memory."""
    bomb = gzip.compress(bytes(http_client.INFLATED * 2))
    assert await outcome(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb) == (NotHttp, 2)


@pytest.mark.parametrize("late", [False, True])
async def test_what_comes_unasked_is_no_answer_to_the_next_request(late: bool) -> None:
    """A second response behind the first, at once or while nobody asks: the connection is closed, not believed."""
    false = OK + b"Content-Length: 5\r\n\r\nfalse"

    async def script(there: Scripted, writer: asyncio.StreamWriter) -> None:
        writer.write(TWO if late else TWO + false)
        if late:
            await asyncio.sleep(0.05)
            writer.write(false)

    async with serving(script) as there, client(there.url) as server:
        for _ in range(2):
            assert await read(server) == (200, b"ok")
            await asyncio.wait_for(there.left.wait(), 5)
            there.left.clear()
        assert there.connections == 2


async def test_what_came_before_a_cut_is_read() -> None:
    """A stream's first words are not lost with its end, though both arrive together."""
    script = says(OK + b"Content-Length: 9\r\n\r\nwords", close=True)
    async with serving(script) as there, client(there.url) as server, server.post(b"") as response:
        await asyncio.wait_for(there.left.wait(), 5)
        pieces = response.pieces()
        assert await anext(pieces) == b"words"
        with pytest.raises(Disconnected, match="closed by the server"):
            await anext(pieces)


# --- connections ------------------------------------------------------------------------------------------------------


async def test_requests_beside_each_other_have_connections_of_their_own_which_are_kept() -> None:
    """As many as are needed at once, and no more."""
    async with serving(says(TWO)) as there, client(there.url) as server:
        for _ in range(3):
            assert await asyncio.gather(*[read(server) for _ in range(8)]) == [(200, b"ok")] * 8
        assert there.connections == 8


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while that nobody asks."""
    monkeypatch.setattr(http_client, "IDLE_S", 0.05)
    async with serving(says(TWO)) as there, client(there.url) as server:
        await read(server)
        await asyncio.wait_for(there.left.wait(), 5)
        assert server._sweeping is None or not server._idle
        assert await read(server) == (200, b"ok")


async def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server may be about to close it; also before its turn to be closed has come."""
    async with serving(says(TWO)) as there, client(there.url) as server:
        await read(server)
        monkeypatch.setattr(http_client, "IDLE_S", 0.0)
        assert await read(server) == (200, b"ok")
        assert there.connections == 2


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    """The next request has another one."""
    async with serving(says(TWO, close=True)) as there, client(there.url) as server:
        for _ in range(2):
            assert await read(server) == (200, b"ok")
            await asyncio.wait_for(there.left.wait(), 5)
            await asyncio.sleep(0.05)  # for the end to arrive
        assert there.connections == 2


async def test_leaving_closes_what_is_not_over() -> None:
    """A response that is left in its middle, or given up before its head, frees its server."""

    async def script(there: Scripted, writer: asyncio.StreamWriter) -> None:
        if len(there.asked) == 1:
            writer.write(OK + b"Content-Length: 9\r\n\r\nwords")

    async with serving(script) as there, client(there.url) as server:
        async with server.post(b"") as response:
            assert await anext(response.pieces()) == b"words"
        await asyncio.wait_for(there.left.wait(), 5)
        there.left.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await read(server)
        await asyncio.wait_for(there.left.wait(), 5)
        assert not server._open


async def test_closing_ends_what_is_under_way() -> None:
    """Requests fail, and later ones are not begun."""

    begun = asyncio.Event()

    async def script(there: Scripted, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await there.go.wait()

    async with serving(script) as there, client(there.url) as server:
        under_way = asyncio.create_task(read(server))
        await asyncio.wait_for(begun.wait(), 5)
        server.close()
        for request in (under_way, read(server)):
            with pytest.raises(Disconnected, match="it has been closed"):
                await request
        assert there.connections <= 2


async def test_a_flood_that_is_not_read_waits_at_the_server() -> None:
    """Not more than a little is taken before it is asked for; then it goes on."""
    size = 64 * HELD
    sent = 0

    async def script(there: Scripted, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size // HELD):
            writer.write(bytes(HELD))
            await writer.drain()
            sent += HELD

    async with serving(script) as there, client(there.url) as server, server.post(b"") as response:
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        assert response._held < 2 * HELD
        assert sent < size
        assert sum([len(piece) async for piece in response.pieces()]) == size


async def test_a_response_is_freed_without_the_garbage_collector() -> None:
    """Nothing that is left refers back to itself, or memory would grow until it comes round."""
    gc.collect()
    gc.disable()
    try:
        async with serving(says(TWO)) as there, client(there.url) as server:
            async with server.post(b"") as response:
                gone = weakref.ref(response)
            del response
            assert gone() is None
    finally:
        gc.enable()


async def test_nobody_listens() -> None:
    """No connection, no such host: an OSError, as of any socket."""
    for url in ("http://127.0.0.1:9/", "http://no-such-host.invalid/"):
        async with client(url) as server:
            with pytest.raises(OSError, match=r"."):
                await read(server)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates."""
    return trustme.CA()


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("localhost", False), ("elsewhere.example", True)])
async def test_a_server_proves_who_it_is(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool) -> None:
    """A certificate of somebody unknown, or for another name, is none."""
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(theirs)
    ours = ssl.create_default_context()
    if trusted:
        authority.configure_trust(ours)
    monkeypatch.setattr(http_client, "_tls", lambda: ours)
    async with serving(says(TWO), theirs, "localhost") as there, client(there.url) as server:
        if trusted and name == "localhost":
            assert await asyncio.gather(read(server), read(server)) == [(200, b"ok")] * 2
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await read(server)


async def test_a_server_that_does_not_shake_hands_is_given_up() -> None:
    """Connecting has a time of its own, TLS included."""

    begun, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()
        writer.close()
        ended.set()

    deaf = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with client(f"https://127.0.0.1:{deaf.sockets[0].getsockname()[1]}", connect_s=0.1) as server:
        with pytest.raises(TimeoutError):
            await read(server)
    assert begun.is_set()
    await asyncio.wait_for(ended.wait(), 5)
    deaf.close()


class Deaf(asyncio.Transport):
    """A transport for a response that is fed by hand."""

    def pause_reading(self) -> None:
        """There is nobody to wait."""

"""The gate: a server that is full turns away at once, and one that is told to stop ends what it has, cleanly."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.app import create_app
from router.gate import Gate, Gated
from router.options import ServerOptions
from tests.adapters.stub_server import StubServer
from tests.router.doubles import ScriptedPipeline

ROOT = Path(__file__).parents[2]
BODY = {"model": "large", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 20}
CONFIG = """
backends:
  large: {{model: {model}, base_url: "{url}", price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}}}
policies: {{p: {{rules: [{{otherwise: {{single: {{backend: large}}}}}}]}}}}
server: {{port: 0, drain_s: {drain_s}, max_header_kb: 8}}
"""


async def test_a_full_server_turns_away_at_once_and_says_when_to_come_back() -> None:
    """Past `max_requests` there is no queue: 503 in the API's shape, with Retry-After; /health and what is under way go on."""
    pipeline = ScriptedPipeline(wait=asyncio.Event())
    assert pipeline.wait is not None
    app = create_app(pipeline, ServerOptions(max_requests=1))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        first = asyncio.ensure_future(http.post("/v1/chat/completions", json=BODY))
        await pipeline.started.wait()
        refused = await http.post("/v1/chat/completions", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (refused.json()["error"]["code"], "max_requests" in refused.text) == ("overloaded", True)
        assert (await http.get("/health")).status_code == 200
        pipeline.wait.set()
        assert (await first).status_code == 200
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200


class Process:
    """`outlay serve` before a stub, as an operator starts it."""

    def __init__(self, stub: StubServer, path: Path) -> None:
        self.stub, self.path = stub, path / "outlay.yaml"

    async def start(self, model: str, drain_s: float) -> str:
        self.path.write_text(CONFIG.format(model=model, url=self.stub.url, drain_s=drain_s))
        start = "from router.cli import main; main()"
        command = (sys.executable, "-c", start, "serve", "--config", str(self.path))
        pipe, out = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        self.process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=out)
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if found := re.search(r"listens on (http://\S+)/v1", line.decode()):
                return found[1]
        raise AssertionError("it did not start")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Process]:
    async with StubServer() as stub:
        process = Process(stub, tmp_path)
        yield process
        if process.process.returncode is None:
            process.process.kill()
        await process.process.communicate()


async def _stopping(http: httpx.AsyncClient, url: str) -> httpx.Response:
    while (ready := await http.get(f"{url}/ready")).status_code != 503:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return ready


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_under_way_finishes_before_a_server_stops(gateway: Process, stream: bool) -> None:
    """After SIGTERM /ready says 503, new requests are turned away, the old ones get their whole answer, and the exit code is 0."""
    url = await gateway.start("slow-stream" if stream else "slow", drain_s=60)
    async with httpx.AsyncClient(timeout=30) as http:
        first = asyncio.ensure_future(http.post(f"{url}/v1/chat/completions", json={**BODY, "stream": stream}))
        await gateway.stub.started.wait()
        gateway.stop()
        assert (await _stopping(http, url)).json()["status"] == "stopping"
        refused = await http.post(f"{url}/v1/chat/completions", json=BODY)
        assert (refused.status_code, "shutting down" in refused.text) == (503, True)
        gateway.stub.release.set()
        answer = await first
    assert answer.status_code == 200
    assert not stream or answer.text.endswith("data: [DONE]\n\n")
    assert await gateway.process.wait() == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_what_does_not_finish_in_time_is_cancelled_with_a_word(gateway: Process, stream: bool) -> None:
    """Past `drain_s` the upstream call is closed and the client is told; the exit code is 0 all the same."""
    url = await gateway.start("slow-stream" if stream else "slow", drain_s=0.2)
    async with httpx.AsyncClient(timeout=30) as http:
        first = asyncio.ensure_future(http.post(f"{url}/v1/chat/completions", json={**BODY, "stream": stream}))
        await gateway.stub.started.wait()
        gateway.stop()
        answer = await first
    assert "shutting down" in answer.text
    assert answer.status_code == (200 if stream else 503)
    await gateway.stub.disconnected.wait()
    assert await gateway.process.wait() == 0


async def test_headers_are_bounded(gateway: Process) -> None:
    """A request whose headers do not end is not read to the end."""
    url = await gateway.start("words", drain_s=1)
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/health", headers={"x-long": "x" * 4000})).status_code == 200
        assert (await http.get(f"{url}/health", headers={"x-long": "x" * 20000})).status_code == 431
        try:
            status = (await http.get(f"{url}/health", headers={"x-long": "x" * 2_000_000})).status_code
        except httpx.TransportError:
            status = 400  # it hung up while we were still sending, so that its word was lost
        assert status == 400
    gateway.stop()
    assert await gateway.process.wait() == 0


async def test_nothing_is_said_after_the_end_of_a_stream() -> None:
    """A request that is cancelled while it cleans up has told its client all: another word would be one too many for the server."""
    sent, over = list[Any](), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        over.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        raise AssertionError("nothing more is read")

    gate = Gate(max_requests=1, max_header_kb=64)
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    task = asyncio.ensure_future(Gated(app, gate)(scope, receive, send))
    await over.wait()
    await gate.drained(0)
    await task
    assert sent == ["http.response.start", "http.response.body"]

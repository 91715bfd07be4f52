"""A gateway in a process of its own, for as long as the demonstration lasts.

GatewayFailed               it did not start, or it died; the message names its log and quotes the end of it
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

START_WITHIN_S = 120.0
STOP_WITHIN_S = 10.0
LINES_QUOTED = 12


class GatewayFailed(Exception):
    """There is no gateway to ask."""


@dataclass(frozen=True)
class Gateway:
    """Where a gateway listens; with its process and log, where we started it."""

    url: str
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    def check(self) -> None:
        """Raises GatewayFailed if the process has ended."""
        if self.process is not None and (code := self.process.poll()) is not None:
            raise GatewayFailed(f"the gateway ended with code {code}; its log is {self.log}:\n{_tail(self.log)}")

    async def ready(self, within_s: float = START_WITHIN_S) -> str:
        """Waits until it can answer. Its own word for its state: `ready`, or `degraded`. Raises GatewayFailed."""
        until = time.monotonic() + within_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as client:
            while time.monotonic() < until:
                self.check()
                if state := await _state(client, self.url):
                    return state
                await asyncio.sleep(0.1)
        raise GatewayFailed(f"no gateway is ready at {self.url} after {within_s:.0f} s" + (f"; its log is {self.log}" if self.log else ""))


async def _state(client: aiohttp.ClientSession, url: str) -> str | None:
    """What /ready says; None while nobody listens or nothing is loaded."""
    try:
        async with client.get(f"{url}/ready") as response:
            return str((await response.json())["status"]) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        return None


@contextmanager
def started(config: Path) -> Iterator[Gateway]:
    """`outlay serve` on a free port, ended on the way out, whatever happens. Its log stays only where it had a fault."""
    folder = Path(tempfile.mkdtemp(prefix="outlay-demo-"))
    log, failed = folder / "gateway.log", False
    port = free_port()
    command = [sys.executable, "-m", "router.cli", "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as sink:
        # A session of its own, so that Ctrl-C reaches us alone and the gateway ends after its last answer was shown.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield Gateway(f"http://127.0.0.1:{port}", process, log)
    except GatewayFailed:
        failed = True
        raise
    finally:
        failed = failed or process.poll() is not None
        _stop(process)
        if not failed and b"Traceback" not in log.read_bytes():
            shutil.rmtree(folder)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, then insist."""
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path | None) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LINES_QUOTED:]) if log else ""

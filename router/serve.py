"""Running the application: bind first, load next, say where it listens, and end cleanly at Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from adapters.shell import outlay
from router import logs
from router.admin import Admin
from router.app import create_app
from router.config import Config, load
from router.door import open_door
from router.errors import ConfigError
from router.live import Live
from router.options import ServerOptions
from router.reading import reader

GC_AFTER = 50_000
"""New objects until the youngest are looked through; Python's own 700 would be several times a request."""
GRACE_S = 2
"""For connections to close after the last answer."""
ANY_PROMPT = "What is the capital of Australia?"


def serve(path: Path, say: Callable[[str], None] = print, host: str | None = None, port: int | None = None) -> None:
    """Serve the configuration in a file until told to stop. Raises ConfigError where a part cannot be built or the port is taken."""
    config = load(path)
    logs.configure(config.server.log_format)
    at = host or config.server.host, config.server.port if port is None else port
    with listen(*at) as listening, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(path, config, listening, say))


async def _serve(path: Path, config: Config, listening: socket.socket, say: Callable[[str], None]) -> None:
    live, door = Live(config), open_door(config)
    say("loading models ...")
    try:
        await live.load()
        _settle_memory()
        admin = Admin(live, path, door)
        server = Draining(create_app(live, config.server, door, admin), config.server)
        say(greeting(config, *listening.getsockname()[:2]))
        async with _reloading(admin, config.server.reload_s):
            await server.serve(sockets=[listening])
    finally:
        await live.aclose()
        await door.aclose()


def _settle_memory() -> None:
    """What start-up made stays, so it is not looked through again; and a request's thousand objects are no reason to look."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_AFTER, *gc.get_threshold()[1:])


class Draining(uvicorn.Server):
    """At the first signal no new request is let in, and what is under way finishes; at the second it is cancelled."""

    def __init__(self, app: FastAPI, options: ServerOptions) -> None:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, proxy_headers=False, lifespan="on", timeout_graceful_shutdown=GRACE_S
        )  # who is behind a proxy is nobody's business here: whoever pays has a key
        config.http = reader(options.max_header_kb << 10)
        super().__init__(config)
        self._gate, self._drain_s, self._signals = app.state.gate, options.drain_s, 0
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Only counted here: a signal comes at any place of the program. uvicorn would raise it again at the end, and so exit with 143."""
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._signals and self._drain is None:
            self._drain = asyncio.ensure_future(self._gate.drained(self._drain_s))
        if self._signals > 1:
            self._gate.cancel()
        self.should_exit = self.should_exit or (self._drain is not None and self._drain.done())
        return await super().on_tick(counter)


@asynccontextmanager
async def _reloading(admin: Admin, every_s: float) -> AsyncIterator[None]:
    """Take the configuration anew at SIGHUP, and when its file changes."""
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    if every_s:
        tasks.add(loop.create_task(admin.watch(every_s), name="watch configuration"))

    def reload() -> None:
        task = loop.create_task(admin.reload(), name="reload configuration")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def greeting(config: Config, host: str, port: int) -> str:
    """Where it listens, what it offers, and a first thing to try."""
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    names = ", ".join(["auto", *(f"outlay/{name}" for name in config.names), *config.backends])
    key = "OUTLAY_API_KEY=sk-outlay-... " if config.keys else ""
    return f"Outlay listens on {where}/v1\nmodels: {names}\ntry: {key}{outlay()} ask {shlex.quote(example(config))} --url {where}"


def example(config: Config) -> str:
    """A prompt to try: what a backend that reads only some kind of prompts says that it reads, else any."""
    reads = (getattr(options, "reads", None) for options in config.backends.values())
    return next((one.example for one in reads if one), ANY_PROMPT)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Bound before anything is loaded, so that a port that is taken is known at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another with --host and --port") from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, where there is one: about twice the requests a second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

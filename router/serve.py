"""Running the application: bind first, load next, say where it listens, and end cleanly at Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from router import logs
from router.app import create_app
from router.assembly import assemble
from router.config import Config
from router.door import open_door
from router.errors import ConfigError


def serve(config: Config, say: Callable[[str], None] = print) -> None:
    """Serve until told to stop. Raises ConfigError where a part cannot be built or the port is taken."""
    logs.configure()
    with listen(config.server.host, config.server.port) as listening, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, listening, say))


async def _serve(config: Config, listening: socket.socket, say: Callable[[str], None]) -> None:
    router, door = assemble(config), open_door(config)
    say("loading models ...")
    try:
        await router.load()
        server = uvicorn.Server(uvicorn.Config(create_app(router, config.server, door), log_config=None, access_log=False, lifespan="on"))
        say(greeting(config, *listening.getsockname()[:2]))
        await server.serve(sockets=[listening])
    finally:
        await router.aclose()
        await door.aclose()


def greeting(config: Config, host: str, port: int) -> str:
    """Where it listens, what it offers, and a first thing to try."""
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    names = ", ".join(["auto", *(f"outlay/{name}" for name in config.policies), *config.backends])
    return f'Outlay listens on {where}/v1\nmodels: {names}\ntry: outlay ask "Use 4 9 10 13 to make 24." --url {where}'


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

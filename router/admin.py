"""The configuration of a running gateway: taken from its file when that changes, from `PUT /admin/config`, from SIGHUP, or from before.

Whatever comes is validated first, as `outlay check` does, policy tests of the file included; what fails leaves the last good one in use.
What is put over HTTP holds until the file changes or the process ends: the file is the operator's, and never written. An admin key is not
the operator: new code, models, files, addresses and secrets come from the file alone (`reach.py`), unless that says otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difficulty.versions import resolved
from router.assembly import located
from router.check import failures, tests_beside
from router.config import Config, parse
from router.door import Door
from router.errors import Changed, ConfigError, Forbidden, Unusable
from router.live import Live
from router.masks import masked, unmasked
from router.reach import beyond
from router.yaml_errors import parse_yaml

log = logging.getLogger("outlay")


@dataclass(frozen=True, slots=True)
class Version:
    """A configuration with where it came from."""

    config: Config
    raw: Mapping[str, Any]
    """As it was written, secrets and all: never shown."""
    source: str

    @property
    def etag(self) -> str:
        """Changes with the configuration."""
        return '"' + hashlib.sha256(json.dumps(self.raw, sort_keys=True, default=str).encode()).hexdigest()[:16] + '"'


class Admin:
    """Changes what `live` uses; keeps what was in use before."""

    def __init__(self, live: Live, path: Path, door: Door | None = None) -> None:
        self._live, self._path, self._door = live, path, door or Door()
        self._current = Version(live.config, parse_yaml(path.read_text(encoding="utf-8"), str(path)), str(path))
        self._before: list[Version] = []
        self._may = live.config.server.admin_may
        self._written = live.config
        """What the file said last, taken or not: what a refused one waits for is watched too."""
        self._stamps = self._seen()
        self._lock = asyncio.Lock()

    def shown(self) -> dict[str, Any]:
        """The configuration in use with every default, secrets masked, and what waits for a restart."""
        effective = masked(self._current.config.model_dump(mode="json", by_alias=True))
        head = {"etag": self._current.etag, "source": self._current.source, "versions_before": len(self._before)}
        return {**head, "restart_needed_for": self._live.waiting_for_restart(), "config": effective}

    @property
    def etag(self) -> str:
        """Of the configuration in use."""
        return self._current.etag

    async def put(self, text: str, if_match: str | None) -> None:
        """Use another configuration. Raises Forbidden, Changed or Unusable, and changes nothing."""
        self._check_may_change()
        async with self._lock:
            if if_match not in (None, "*", self.etag):
                raise Changed(f"the configuration is {self.etag} now; get it again, and send its ETag as If-Match")
            try:
                raw = unmasked(await asyncio.to_thread(parse_yaml, text, "body"), self._current.raw)
                config = await asyncio.to_thread(parse, raw, "body")
                self._check_reach(config)
                await self._use(Version(config, raw, "PUT /admin/config"))
            except ConfigError as error:
                raise Unusable(str(error)) from None

    async def rollback(self) -> None:
        """Use the configuration before this one again. Raises Forbidden or Unusable."""
        self._check_may_change()
        async with self._lock:
            if not self._before:
                raise Unusable("no other configuration was in use before")
            to = self._before[-1]
            try:
                await self._apply(to.config)
            except ConfigError as error:
                raise Unusable(str(error)) from None
            self._current = to
            self._before.pop()
            log.info("configuration %s of %s is in use again", self.etag, to.source)

    async def reload(self) -> None:
        """Read the file, and what it names, again. What is wrong is logged, and the last good configuration stays."""
        async with self._lock:
            before = self._stamps = self._seen()
            try:
                raw = parse_yaml(await asyncio.to_thread(self._path.read_text, encoding="utf-8"), str(self._path))
                config = self._written = parse(raw, str(self._path))
                self._stamps = {path: before.get(path, stamp) for path, stamp in self._seen().items()}
                await asyncio.to_thread(_tested, self._path, config)
                await self._use(Version(config, raw, str(self._path)))
            except (ConfigError, OSError, UnicodeDecodeError) as error:
                log.error("the configuration was not taken, the last good one stays: %s", error)

    async def watch(self, every_s: float) -> None:
        """Reload whenever the file, the tests beside it, or an artifact or certificate that it names has changed."""
        while True:
            await asyncio.sleep(every_s)
            if await asyncio.to_thread(self._seen) != self._stamps:
                await self.reload()

    async def _use(self, version: Version) -> None:
        await self._apply(version.config)
        if version.etag != self.etag:
            self._before = [*self._before, self._current][-20:]
        self._current = version
        waiting = self._live.waiting_for_restart()
        log.info("configuration %s of %s is in use%s", self.etag, version.source, f"; {waiting} need a restart" if waiting else "")

    async def _apply(self, config: Config) -> None:
        self._door.check(config.names, config.backends)
        await self._live.use(config)
        self._door.names(config.names, config.backends)

    def _check_may_change(self) -> None:
        if self._may == "read":
            raise Forbidden("the configuration is not changed over HTTP here: its file says server.admin_may: read")

    def _check_reach(self, config: Config) -> None:
        """Raises ConfigError for what only the file may name."""
        if self._may != "extend" and (new := beyond(config, self._written, self._live.config)):
            why = "is said nowhere in the file; code, models, files, addresses and secrets come from there alone (docs/keys.md)"
            raise ConfigError("\n".join(f"body: {reach} {why}" for reach in new))

    def _seen(self) -> dict[Path, tuple[int, int] | None]:
        """What would change with the file and with what it names."""
        return {path: _stamp(path) for path in (self._path, tests_beside(self._path), *_named(self._written))}


def _tested(path: Path, config: Config) -> None:
    """The policy tests beside the file. Raises ConfigError with those that fail."""
    if failed := failures(path, config):
        raise ConfigError("\n".join(f"{test.name}: {found}" for test, found in failed))


def _named(config: Config) -> Iterator[Path]:
    """Files whose change is a change of the configuration: artifacts, curves, certificates."""
    yield from (Path(policy.certificate) for policy in config.policies.values() if policy.certificate)
    if config.curves:
        with suppress(Exception):  # a pointer that cannot be read now is reported when it is loaded
            yield located(config.curves)
    if config.probe.artifact:
        with suppress(Exception):
            yield resolved(Path(config.probe.artifact)) / "probe.json"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size

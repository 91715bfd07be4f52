"""The door: whose request it is, and with what purse they come in. Without keys it stands open, and nobody's purse is bottomless."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters.accounts import METERS, NANO, Account, Entry
from adapters.ledger import build_ledger
from router.config import Config
from router.errors import Forbidden, NoAdmin
from router.keys import NOBODY, Key, KeyRing
from router.purse import NO_PURSE, Purse
from router.teller import Teller

OPEN_PATHS = ("/health", "/ready")
"""What tells a load balancer whether to send requests here, and nothing else."""
ADMIN_PATHS = ("/admin", "/metrics")
"""Beginnings of what concerns all tenants."""


class Door:
    """Where the server asks for keys, `ring` knows them and `teller` their money."""

    def __init__(self, ring: KeyRing | None = None, teller: Teller | None = None) -> None:
        self._ring, self._teller = ring, teller

    def enter(self, path: str, headers: Mapping[str, str]) -> Purse:
        """The purse for one request. Raises Unauthorized or Forbidden."""
        without_key = self._ring is None or self._teller is None or path in OPEN_PATHS
        key = NOBODY if without_key or self._ring is None else self._ring.key_of(headers)
        if path.startswith("/admin") and (self._ring is None or not self._ring.has_admin):
            raise NoAdmin(f"no path {path}: there is no admin key; `outlay keys create --admin` makes one, where keys.path is configured")
        if without_key or self._teller is None:
            return NO_PURSE
        if path.startswith(ADMIN_PATHS) and not key.admin:
            raise Forbidden(f"the API key {key.id} is not for {path}; `outlay keys create --admin` makes one that is")
        return Purse.of(key, secrets.token_hex(12), self._teller)

    def check(self, policies: Iterable[str], backends: Iterable[str]) -> None:
        """That every key's names lead somewhere among these. Raises ConfigError."""
        if self._ring is not None:
            self._ring.check(policies, backends)

    def names(self, policies: Iterable[str], backends: Iterable[str]) -> None:
        """What keys may name from now on."""
        if self._ring is not None:
            self._ring.names(policies, backends)

    async def usage(self) -> list[dict[str, Any]]:
        """Every key, with what it may spend and has spent in the present windows; for whoever has an admin key."""
        if self._ring is None or self._teller is None:
            return []
        return [{**_shown(key), "used": await self._used(key.account)} for key in self._ring.keys]

    async def _used(self, account: Account) -> dict[str, dict[str, float]]:
        assert self._teller is not None
        receipt = await self._teller.ledger.write(account, Entry("usage"))
        used: dict[str, dict[str, float]] = {}
        for (unit, span), amount in zip(METERS, receipt.used, strict=True):
            used.setdefault(unit, {})[span] = amount / NANO if unit == "usd" else amount
        return used

    async def aclose(self) -> None:
        """Wait for the last settlements, and release the ledger."""
        if self._teller is not None:
            await self._teller.aclose()


def _shown(key: Key) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"digest"}, exclude_defaults=True)


def open_door(config: Config) -> Door:
    """The door that a configuration asks for. Raises ConfigError where the keys cannot be read, LedgerError for a wrong address."""
    options = config.keys
    if options is None:
        return Door()
    ring = KeyRing(Path(options.path), config.names, config.backends)
    ledger = build_ledger(options.ledger, lease_s=options.lease_s, when_down=options.when_down, timeout_s=options.timeout_s)
    return Door(ring, Teller(ledger, options.wait_s))

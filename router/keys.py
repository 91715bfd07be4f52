"""API keys: what each may ask for and spend, the file in which they are kept, and who a request's key says it is.

The file holds SHA-256 digests. A slow hash (bcrypt, scrypt) is for secrets that people choose and that can be guessed; a key has 256 random
bits, which nobody guesses at any speed, and every request would pay for a slow one. What is shown of a key, in lists,
logs and errors, is its id.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from adapters.accounts import MOST_USD, NANO, Account
from policies.plans import Frozen
from policies.policy import LimitSpec
from router.errors import ConfigError, Unauthorized, have_instead
from router.yaml_errors import explain, read_yaml

log = logging.getLogger("outlay")

FORM = re.compile(r"sk-outlay-([0-9a-f]{8})-[A-Za-z0-9_-]{43}")
LOOK_AGAIN_S = 1.0
"""How old the knowledge of the file may be, and so how soon a key that was revoked stops working."""


class Dollars(Frozen):
    """A budget in US dollars for each window; calendar minutes, days and months in UTC."""

    minute: float | None = Field(None, gt=0, le=MOST_USD, description="US dollars in each minute")
    day: float | None = Field(None, gt=0, le=MOST_USD, description="US dollars in each day")
    month: float | None = Field(None, gt=0, le=MOST_USD, description="US dollars in each month")


class Counts(Frozen):
    """A limit of requests or tokens for each window."""

    minute: int | None = Field(None, gt=0, lt=1 << 53, description="in each minute")
    day: int | None = Field(None, gt=0, lt=1 << 53, description="in each day")
    month: int | None = Field(None, gt=0, lt=1 << 53, description="in each month")


class Key(Frozen):
    """One key. What is not set is not limited."""

    id: str = Field(pattern=r"^[0-9a-f]{8}$", description="what lists, logs and errors show of it")
    digest: str = Field(description="SHA-256 of the key, in hexadecimal digits")
    name: str = Field(min_length=1, max_length=100, description="what it is for")
    tenant: str | None = Field(None, description="keys of one tenant share cache, decisions and sessions; unset: the key is its own")
    policy: str | None = Field(None, description="what `auto` means for this key")
    models: tuple[str, ...] | None = Field(None, description="what it may name in `model`: outlay/<policy>, or a backend")
    backends: tuple[str, ...] | None = Field(None, description="whose answers its money may buy, by whatever policy")
    limits: LimitSpec = Field(LimitSpec(), description="of one request; they tighten the policy's")
    budget_usd: Dollars = Dollars()
    requests: Counts = Counts()
    tokens: Counts = Counts()
    admin: bool = Field(False, description="may also use /admin")
    revoked: bool = Field(False, description="no longer let in")

    @field_validator("digest")
    @classmethod
    def _is_digest(cls, digest: str) -> str:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("must be 64 hexadecimal digits")  # which are not repeated: somebody may have written the key itself
        return digest

    @property
    def owner(self) -> str:
        """Whose cache, decisions and sessions it sees. A tenant's name cannot be taken for a key's id."""
        return f"tenant:{self.tenant}" if self.tenant else f"key:{self.id}"

    def may_name(self, model: str) -> bool:
        """Whether it may ask for `outlay/<policy>` or a backend."""
        return self.models is None or model in self.models

    def may_buy(self, backend: str) -> bool:
        """Whether its money may be spent on a backend's answers."""
        return self.backends is None or backend in self.backends

    @property
    def account(self) -> Account:
        """Its limits as the ledger takes them: requests, nano-dollars, tokens; minute, day, month."""
        usd = (None if limit is None else round(limit * NANO) for limit in _windows(self.budget_usd))
        return Account(self.id, (*_windows(self.requests), *usd, *_windows(self.tokens)))


NOBODY = Key(id="00000000", digest="0" * 64, name="nobody")
"""Whose requests they are where the server asks for no keys: everything is allowed, and nothing limited."""


def _windows(limits: Dollars | Counts) -> tuple[int | None, ...]:
    return limits.minute, limits.day, limits.month  # type: ignore[return-value]  # dollars become whole numbers in `account`


class KeyFile(Frozen):
    """What stands in the file."""

    keys: tuple[Key, ...] = Field((), description="each as `outlay keys create` writes it")

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        ids = [key.id for key in keys]
        if twice := sorted({id for id in ids if ids.count(id) > 1}):
            raise ValueError(f"the same id stands twice: {', '.join(twice)}")
        return keys


def new_key(name: str, **options: object) -> tuple[str, Key]:
    """A key and what is kept of it. The key itself is seen here and never again. Raises ConfigError."""
    id = secrets.token_hex(4)
    secret = f"sk-outlay-{id}-{secrets.token_urlsafe(32)}"
    raw = {"id": id, "digest": digest_of(secret), "name": name, **options}
    try:
        return secret, Key.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, raw, Key))) from None


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


# --- the file -----------------------------------------------------------------------------------------------------------


def read_keys(path: Path) -> KeyFile:
    """The keys in a file (YAML, and so JSON too). Raises ConfigError."""
    raw = read_yaml(path)
    try:
        return KeyFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in explain(error, raw, KeyFile))) from None


def check_names(file: KeyFile, policies: Iterable[str], backends: Iterable[str]) -> Iterator[str]:
    """Each name in a key that leads nowhere."""
    policies, backends = list(policies), list(backends)
    models = [*(f"outlay/{name}" for name in policies), *backends]
    for i, key in enumerate(file.keys):
        named = [("policy", "policy", name, policies) for name in [key.policy] if name]
        named += [("models", "model", name, models) for name in key.models or ()]
        named += [("backends", "backend", name, backends) for name in key.backends or ()]
        lost = ((field, kind, name, have) for field, kind, name, have in named if name not in have)
        yield from (f"keys[{i}].{field}: no {kind} '{name}'; {have_instead(name, have)}" for field, kind, name, have in lost)


# --- who it is ----------------------------------------------------------------------------------------------------------


class KeyRing:
    """The keys of a file, read again when it changes. One that became unreadable changes nothing: the keys last read go on."""

    def __init__(self, path: Path, policies: Iterable[str], backends: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._policies, self._backends, self._clock = path, list(policies), list(backends), clock
        self._stamp = _stamp(path)
        self._keys = self._read()
        self._look_at = clock() + LOOK_AGAIN_S

    @property
    def keys(self) -> list[Key]:
        """All of them, in the file's order."""
        self._refresh()
        return list(self._keys.values())

    def key_of(self, headers: Mapping[str, str]) -> Key:
        """The key that a request came with (header names in lower case). Raises Unauthorized."""
        given = _given(headers)
        if not given:
            raise Unauthorized("no API key was given; send the header authorization: Bearer sk-outlay-...")
        self._refresh()
        form = FORM.fullmatch(given)
        key = self._keys.get(form[1]) if form else None
        known = hmac.compare_digest((key or NOBODY).digest, digest_of(given))
        if key is None or not known:
            raise Unauthorized("this API key is not known here; `outlay keys create` makes one")
        if key.revoked:
            raise Unauthorized(f"the API key {key.id} was revoked")
        return key

    def check(self, policies: Iterable[str], backends: Iterable[str]) -> None:
        """That each name in a key leads somewhere among these. Raises ConfigError."""
        if wrong := list(check_names(KeyFile(keys=tuple(self._keys.values())), policies, backends)):
            raise ConfigError("\n".join(f"{self._path}: {line}" for line in wrong))

    def names(self, policies: Iterable[str], backends: Iterable[str]) -> None:
        """What keys may name from now on."""
        self._policies, self._backends = list(policies), list(backends)

    @property
    def has_admin(self) -> bool:
        """Whether anybody may use /admin."""
        return any(key.admin and not key.revoked for key in self.keys)

    def _refresh(self) -> None:
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_AGAIN_S
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
        except ConfigError as error:
            log.error("%s; the keys last read go on", error)

    def _read(self) -> dict[str, Key]:
        file = read_keys(self._path)
        if wrong := list(check_names(file, self._policies, self._backends)):
            raise ConfigError("\n".join(f"{self._path}: {line}" for line in wrong))
        return {key.id: key for key in file.keys}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _given(headers: Mapping[str, str]) -> str:
    """OpenAI's header, or Anthropic's."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else headers.get("x-api-key", "").strip()

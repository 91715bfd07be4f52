"""Where events are kept: a file that is rotated, or a Redis stream; and the writer that no request ever waits for.

A log is a witness, never a duty: events wait in a bounded queue for one thread per sink. While a sink fails, what waits is tried again;
what finds the queue full is dropped and counted. Lines are bytes here; what they mean is decided elsewhere.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit, urlunsplit

from adapters.options import without_password

log = logging.getLogger(__name__)

BATCH = 256
STREAM = "outlay:events"
FIELD = b"event"
REDIS_SCHEMES = ("redis", "rediss", "unix")


class Sink(Protocol):
    """Keeps lines. Called by one thread; may block."""

    name: str

    def write(self, lines: Sequence[bytes]) -> int:
        """Keep lines, in order; how many of them were kept. Raises OSError or a RedisError where none was."""

    def close(self) -> None:
        """Release what is held."""


class FileSink:
    """JSON lines, appended; rotated at a size and at midnight (UTC), with only the newest files kept.

    `decisions.jsonl` becomes `decisions.2026-07-25T10-00-00.123456.jsonl` beside it. Several processes may share one file. What a full disk
    or a crash cut off stays alone on its line. What was written survives the process, and a power failure but for its last seconds.
    """

    def __init__(
        self, path: Path, *, max_bytes: int = 100_000_000, keep: int = 30, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.name, self._path, self._max_bytes, self._keep, self._now = "file", path, max_bytes, keep, now
        self._file: int | None = None

    def write(self, lines: Sequence[bytes]) -> int:
        """Append whole lines; a part of the last one may be left by a full disk, and is then written again after it."""
        file = self._current()
        mend = self._mend(file)
        data = mend + b"".join(line + b"\n" for line in lines)
        return data[len(mend) : os.write(file, data)].count(b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _current(self) -> int:
        """The open file; another one where it was rotated away, by us or by somebody else."""
        if self._file is None or not self._is_ours(self._file):
            self.close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        if self._is_due(os.fstat(self._file)):
            self._rotate(self._file)
            return self._current()
        return self._file

    def _is_ours(self, file: int) -> bool:
        with suppress(FileNotFoundError):
            return os.stat(self._path).st_ino == os.fstat(file).st_ino
        return False

    def _is_due(self, state: os.stat_result) -> bool:
        if not state.st_size:
            return False
        return state.st_size >= self._max_bytes or datetime.fromtimestamp(state.st_mtime, UTC).date() < self._now().date()

    def _rotate(self, file: int) -> None:
        """Under a lock, and only where no other process did it meanwhile."""
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if self._is_ours(file):
                stamp = self._now().strftime("%Y-%m-%dT%H-%M-%S.%f")
                self._path.rename(self._path.with_name(f"{self._path.stem}.{stamp}{self._path.suffix}"))
                for old in _rotated(self._path)[: -self._keep]:
                    old.unlink(missing_ok=True)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
        self.close()

    def _mend(self, file: int) -> bytes:
        """An end for the last line, where a crash or a full disk left it without one."""
        size = os.fstat(file).st_size
        return b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""


class RedisSink:
    """A Redis stream that keeps about the last `max_events`. At least once: a write whose answer was lost is made again."""

    def __init__(self, url: str, *, stream: str = STREAM, max_events: int = 100_000, timeout_s: float = 2.0) -> None:
        self.name, self._stream, self._max_events = "redis", stream, max_events
        self._redis = _redis(url, timeout_s)

    def write(self, lines: Sequence[bytes]) -> int:
        """One round trip for all of them."""
        pipe = self._redis.pipeline(transaction=False)
        for line in lines:
            pipe.xadd(self._stream, {FIELD: line}, maxlen=self._max_events, approximate=True)
        pipe.execute()
        return len(lines)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _redis(url: str, timeout_s: float) -> Any:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0))


class EventWriter:
    """A bounded queue before a sink, emptied by one thread. `add` never blocks and never raises."""

    def __init__(self, sink: Sink, *, size: int = 10_000, retry_s: float = 1.0, patience_s: float = 3.0) -> None:
        self._sink, self._retry_s, self._patience_s = sink, retry_s, patience_s
        self.name = f"log:{sink.name}"
        self.counts: Counter[str] = Counter()
        """Events `written` and `dropped`."""
        self.trouble = ""
        """Why the sink does not take events now; empty if it does."""
        self._queue: queue.Queue[Callable[[], bytes] | None] = queue.Queue(size)
        self._closing = threading.Event()
        self._give_up_s = float("inf")
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    def add(self, line: Callable[[], bytes]) -> None:
        """Hand over an event; it is turned into a line by the thread. Dropped and counted where the queue is full."""
        try:
            if self._closing.is_set():
                raise queue.Full
            self._queue.put_nowait(line)
        except queue.Full:
            self.counts["dropped"] += 1

    @property
    def state(self) -> str:
        """For readiness: `ok`, or what is wrong now."""
        return f"{self.trouble}; {self.counts['dropped']} events dropped so far" if self.trouble else "ok"

    def close(self) -> None:
        """Write what waits, as long as that takes no longer than our patience; the rest is dropped and counted. Blocks so long at most."""
        self._give_up_s = time.monotonic() + self._patience_s
        self._closing.set()
        with suppress(queue.Full):  # a full queue keeps no thread asleep
            self._queue.put_nowait(None)
        self._thread.join(self._patience_s + 1)

    def _work(self) -> None:
        while lines := self._batch():
            while lines := lines[self._write(lines) :]:
                if not self._may_try_again():
                    self.counts["dropped"] += len(lines) + self._queue.qsize()
                    return self._sink.close()
        return self._sink.close()

    def _may_try_again(self) -> bool:
        """After a pause; not once closing takes too long."""
        if self._closing.wait(self._retry_s):
            time.sleep(min(self._retry_s, 0.1))
        return time.monotonic() < self._give_up_s

    def _batch(self) -> list[bytes]:
        """What waits, at most BATCH lines; empty once it is time to end and nothing is left."""
        lines: list[bytes] = []
        while not lines and not (self._closing.is_set() and self._queue.empty()):
            lines += self._line(self._queue.get())
            with suppress(queue.Empty):
                while len(lines) < BATCH:
                    lines += self._line(self._queue.get_nowait())
        return lines

    def _line(self, event: Callable[[], bytes] | None) -> list[bytes]:
        if event is None:
            return []
        try:
            return [event()]
        except Exception:  # what cannot be written down must not end the thread
            log.exception("an event could not be written down; it is dropped")
            self.counts["dropped"] += 1
            return []

    def _write(self, lines: Sequence[bytes]) -> int:
        try:
            written = self._sink.write(lines)
        except Exception as error:  # whatever a sink throws, the next try may work
            if not self.trouble:
                log.warning("%s takes no events (%s: %s); they wait", self.name, type(error).__name__, error)
            self.trouble = f"{type(error).__name__}: {error}"
            return 0
        if self.trouble:
            log.warning("%s takes events again; %d were dropped", self.name, self.counts["dropped"])
        self.trouble = ""
        self.counts["written"] += written
        return written


# --- reading ------------------------------------------------------------------------------------------------------------


def read_lines(source: str) -> Iterator[bytes]:
    """The lines of a file and of those rotated away from it, of all files in a folder, or of a Redis stream. Raises OSError."""
    if urlsplit(source).scheme in REDIS_SCHEMES:
        yield from _stream_lines(source)
        return
    path = Path(source)
    for file in sorted(path.glob("*.jsonl"), key=_age) if path.is_dir() else [*_rotated(path), path]:
        with file.open("rb") as lines:
            yield from (line.rstrip(b"\n") for line in lines if line.strip())


def _stream_lines(url: str) -> Iterator[bytes]:
    """In pages; `?stream=` names another stream than ours."""
    import redis

    parts = urlsplit(url)
    stream, plain = parse_qs(parts.query).get("stream", [STREAM])[0], urlunsplit(parts._replace(query=""))
    client, after = _redis(plain, 10.0), "-"
    try:
        while page := client.xrange(stream, min=after, count=1000):
            yield from (fields[FIELD] for _, fields in page if FIELD in fields)
            after = "(" + page[-1][0].decode()
    except redis.RedisError as error:
        raise OSError(f"{without_password(plain)}: {error}") from error
    finally:
        client.close()


def _rotated(path: Path) -> list[Path]:
    """Files that were rotated away from `path`, oldest first."""
    return sorted(path.parent.glob(f"{path.stem}.????-??-??T*{path.suffix}"))


def _age(path: Path) -> tuple[str, bool, str]:
    """Rotated files before the one that they were rotated from."""
    base, dot, stamp = path.stem.partition(".")
    return base, not dot, stamp

"""Sinks and writer of the event log: what is kept, what a full disk or a dead Redis costs, and that nobody waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.event_log import EventWriter, FileSink, RedisSink, read_lines


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread; fails after ten seconds."""
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it did not come to that within ten seconds")


class Broken:
    """A sink that fails until it is mended."""

    name = "broken"

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.broken = True
        self.tried = threading.Event()

    def write(self, lines: Sequence[bytes]) -> int:
        self.tried.set()
        if self.broken:
            raise OSError(28, "No space left on device")
        self.kept += lines
        return len(lines)

    def close(self) -> None: ...


def a_line(number: int) -> Callable[[], bytes]:
    return lambda: str(number).encode()


# --- files --------------------------------------------------------------------------------------------------------------


def test_lines_are_appended_in_order_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    """Over several writes and a restart; folders are made; the file is private."""
    path = tmp_path / "logs" / "decisions.jsonl"
    for lines in ([b"1", b"2"], [b"3"]):
        sink = FileSink(path)
        assert sink.write(lines) == len(lines)
        sink.close()
    assert list(read_lines(str(path))) == [b"1", b"2", b"3"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path) -> None:
    """The next line begins on its own."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"whole": 1}\n{"cut')
    FileSink(path).write([b'{"next": 1}'])
    assert list(read_lines(str(path))) == [b'{"whole": 1}', b'{"cut', b'{"next": 1}']


def test_a_disk_that_fills_up_within_a_batch_says_how_many_lines_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is to be written again, and nothing is lost or torn by it."""
    sink, write = FileSink(tmp_path / "log.jsonl"), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    assert sink.write([b"11", b"22", b"33"]) == 2
    monkeypatch.setattr(os, "write", write)
    assert sink.write([b"33"]) == 1
    assert list(read_lines(str(tmp_path / "log.jsonl"))) == [b"11", b"22", b"3", b"33"]


def test_a_file_is_rotated_at_its_size_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    """Reading gives what is kept, oldest first, by file or by folder."""
    path, now = tmp_path / "log.jsonl", datetime(2026, 7, 25, 10, tzinfo=UTC)
    sink = FileSink(path, max_bytes=4, keep=2, now=lambda: now)
    for number in range(10):
        now += timedelta(minutes=1)
        sink.write([f"{number}{number}".encode()])
    assert list(read_lines(str(path))) == list(read_lines(str(tmp_path))) == [b"44", b"55", b"66", b"77", b"88", b"99"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_is_rotated_at_midnight(tmp_path: Path) -> None:
    """What was written yesterday stays in a file of its own."""
    path = tmp_path / "log.jsonl"
    FileSink(path).write([b"1"])
    yesterday = time.time() - 86_400
    os.utime(path, (yesterday, yesterday))
    FileSink(path).write([b"2"])
    assert path.read_bytes() == b"2\n"
    assert list(read_lines(str(path))) == [b"1", b"2"]


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    """Each sees that the other rotated, and no line is lost."""
    now = datetime(2026, 7, 25, 10, tzinfo=UTC)
    sinks = [FileSink(tmp_path / "log.jsonl", max_bytes=6, now=lambda: now) for _ in range(2)]
    for number in range(20):
        now += timedelta(seconds=1)
        sinks[number % 2].write([f"{number:02}".encode()])
    assert list(read_lines(str(tmp_path / "log.jsonl"))) == [f"{number:02}".encode() for number in range(20)]


def test_a_folder_that_cannot_be_written_is_an_error_of_the_sink(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(OSError, match="logs"):
        FileSink(tmp_path / "logs" / "log.jsonl").write([b"1"])


# --- Redis --------------------------------------------------------------------------------------------------------------


def test_a_stream_keeps_about_the_last_events(redis_url: str) -> None:
    """Read back in order, in pages, and under its own name."""
    sink = RedisSink(redis_url, stream="mine", max_events=2000)
    for start in range(0, 5000, 500):
        assert sink.write([str(n).encode() for n in range(start, start + 500)]) == 500
    sink.close()
    kept = [int(line) for line in read_lines(f"{redis_url}?stream=mine")]
    assert kept == list(range(5000 - len(kept), 5000))
    assert 2000 <= len(kept) < 2500
    assert list(read_lines(redis_url)) == []


def test_reading_from_a_redis_that_is_gone_says_where(redis_server: Any, redis_url: str) -> None:
    """An OSError that names the server."""
    redis_server.kill()
    with pytest.raises(OSError, match=r"redis://127\.0\.0\.1"):
        list(read_lines(redis_url))


def test_events_wait_while_redis_is_gone(redis_server: Any, redis_url: str) -> None:
    """What was handed over meanwhile is in the stream once it is back; the trouble is shown and then over."""
    writer = EventWriter(RedisSink(redis_url, timeout_s=1), retry_s=0.02)
    redis_server.kill()
    writer.add(a_line(1))
    until(lambda: writer.state != "ok")
    writer.add(a_line(2))
    redis_server.start()
    until(lambda: writer.counts["written"] == 2)
    assert writer.state == "ok"
    assert list(read_lines(redis_url)) == [b"1", b"2"]
    writer.close()


# --- the writer ---------------------------------------------------------------------------------------------------------


def test_a_full_queue_drops_and_counts_and_never_blocks() -> None:
    """With the sink failing, three wait (and one batch is in hand); all others are counted. Mended, what waited is written."""
    sink = Broken()
    writer = EventWriter(sink, size=3, retry_s=0.02)
    writer.add(a_line(0))
    assert sink.tried.wait(10)
    for number in range(1, 11):
        writer.add(a_line(number))
    assert writer.counts["dropped"] == 7
    until(lambda: "No space left on device; 7 events dropped so far" in writer.state)
    sink.broken = False
    writer.close()
    assert sink.kept == [b"0", b"1", b"2", b"3"]
    assert writer.counts["written"] == 4


def test_closing_gives_up_on_a_sink_that_stays_broken() -> None:
    """After its patience, everything that waited is counted as dropped; and so is what comes later."""
    sink = Broken()
    writer = EventWriter(sink, retry_s=0.01, patience_s=0.05)
    for number in range(5):
        writer.add(a_line(number))
    writer.close()
    writer.add(a_line(6))
    assert writer.counts == {"dropped": 6}


def test_an_event_that_cannot_be_written_down_is_dropped_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The thread lives on."""
    sink = Broken()
    sink.broken = False
    writer = EventWriter(sink)

    def bad() -> bytes:
        raise TypeError("no JSON")

    writer.add(bad)
    writer.add(a_line(1))
    writer.close()
    assert (sink.kept, writer.counts["dropped"]) == ([b"1"], 1)
    assert "no JSON" in caplog.text

"""Sums kept in memory, a file or Redis: one suite, then what each does when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import SumsError
from adapters.sums import FileSums, RedisSums, Sums, build_sums


@pytest.fixture(params=["memory", "file", "redis"])
async def sums(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sums]:
    where = {"memory": "memory://", "file": str(tmp_path / "state" / "sums.json")}
    built = build_sums(where.get(request.param) or request.getfixturevalue("redis_url"))
    yield built
    await built.aclose()


async def test_rows_add_up_and_are_forgotten(sums: Sums) -> None:
    """Any name; subtraction too; what is forgotten is gone."""
    assert await sums.exchange({}) == {}
    await sums.exchange({"1|backend:small|3|maths": (1.0, 0.5, -2.25), "b": (1.0, 1.0, 1.0)})
    rows = await sums.exchange({"1|backend:small|3|maths": (2.0, -0.5, 1.0)})
    assert rows == {"1|backend:small|3|maths": (3.0, 0.0, -1.25), "b": (1.0, 1.0, 1.0)}
    assert await sums.exchange({}, ["b", "never there"]) == {"1|backend:small|3|maths": (3.0, 0.0, -1.25)}


async def test_many_at_once_lose_nothing(sums: Sums) -> None:
    """Fifty writers of one row."""
    await asyncio.gather(*(sums.exchange({"a": (1.0, 0.0, 0.5)}) for _ in range(50)))
    assert await sums.exchange({}) == {"a": (50.0, 0.0, 25.0)}


async def test_another_process_sees_the_same(tmp_path: Path, redis_url: str) -> None:
    """File and Redis outlive who wrote them."""
    for where in (str(tmp_path / "sums.json"), redis_url):
        first, second = build_sums(where), build_sums(where)
        await first.exchange({"a": (1.0, 2.0, 3.0)})
        await first.aclose()
        assert await second.exchange({"a": (1.0, 0.0, 0.0)}) == {"a": (2.0, 2.0, 3.0)}
        await second.aclose()


async def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    """With its name and what to do."""
    path = tmp_path / "notes.json"
    path.write_text('{"my": "notes"}')
    with pytest.raises(SumsError, match=r"notes\.json: not written by Outlay"):
        await FileSums(path).exchange({"a": (1.0, 1.0, 1.0)})
    assert path.read_text() == '{"my": "notes"}'
    with pytest.raises(SumsError, match="notes"):
        await FileSums(path / "below.json").exchange({})


async def test_a_redis_that_is_gone_is_said_without_its_password(redis_server: Any, redis_url: str) -> None:
    """And it works again when it is back."""
    sums = RedisSums(redis_url.replace("redis://", "redis://:secret@"), timeout_s=1)
    redis_server.kill()
    with pytest.raises(SumsError, match=r"redis://127\.0\.0\.1") as caught:
        await sums.exchange({"a": (1.0, 1.0, 1.0)})
    assert "secret" not in str(caught.value)
    await sums.aclose()
    redis_server.start()
    again = RedisSums(redis_url)
    assert await again.exchange({"a": (1.0, 1.0, 1.0)}) == {"a": (1.0, 1.0, 1.0)}
    await again.aclose()

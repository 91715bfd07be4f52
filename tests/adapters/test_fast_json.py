"""JSON at the border: quick, and nothing that the standard library takes is lost."""

from __future__ import annotations

import json
import resource
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from adapters import fast_json
from adapters.fast_json import dumps, loads

STATM = Path("/proc/self/statm")


def resident_kb() -> float:
    return int(STATM.read_text().split()[1]) * resource.getpagesize() / 1024


def test_what_is_no_number_becomes_null() -> None:
    """JSON has no infinity and no NaN; a client's parser would stop at one."""
    assert dumps({"a": inf, "b": [nan, -inf], "c": np.float64(0.5)}) == b'{"a":null,"b":[null,null],"c":0.5}'


def test_keys_that_are_no_text_are_written_as_text() -> None:
    """As the standard library writes them, with no number lost to infinity beside them."""
    assert json.loads(dumps({1: inf, "b": (1, 2)})) == {"1": None, "b": [1, 2]}


def test_a_lone_surrogate_can_be_read() -> None:
    """A model's answer may be cut in the middle of a character; orjson refuses what the standard library reads."""
    assert loads(b'{"text": "\\ud83d"}') == {"text": "\ud83d"}


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -(10**30), 10**60])
def test_whole_numbers_of_any_size_pass_as_they_came(number: int) -> None:
    """Ids are no measurements: as a float they would be somebody else's."""
    raw = json.dumps({"usd": 0.00011519999999999999, "id": number})
    assert loads(raw) == loads(raw.encode()) == {"usd": 0.00011519999999999999, "id": number}
    assert isinstance(loads(raw)["id"], int)
    assert json.loads(dumps({"id": number})) == {"id": number}


@pytest.mark.parametrize("raw", [b'{"usd": 0.00011519999999999999, "l": [-1.1920928955078125e-07]}', b'["0.11111111111111111111"]'])
def test_fractions_of_many_digits_are_read_quickly(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dollars and logarithms have them often; they are the same either way, in half the time or less."""
    expected = json.loads(raw)
    monkeypatch.setattr(fast_json, "json", None)
    assert loads(raw) == expected


def test_what_is_no_json_is_a_value_error() -> None:
    """Whatever reads it."""
    with pytest.raises(ValueError, match="Expecting"):
        loads(b"{")


@pytest.mark.skipif(not STATM.exists(), reason="tells resident memory on Linux only")
def test_what_is_kept_takes_no_more_room_than_it_needs() -> None:
    """Thousands of small documents are remembered at a time."""
    before = resident_kb()
    kept = [dumps({"number": number}) for number in range(20_000)]
    assert (resident_kb() - before) / len(kept) < 1

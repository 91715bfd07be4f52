"""JSON as it crosses the process's border, by orjson: in and out of a request it is a tenth of the standard library's time.

What orjson does not take (text with lone surrogates, numbers of other kinds, deep nesting), or would not keep (whole numbers of more
than 64 bits), goes to the standard library, so that everything passes as it came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_LONG, _POINT = b"0" * 19, ord(".")
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_slowly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any) -> bytes:
    """Compact JSON. What JSON has no number for (the logarithm of a chance of zero, a limit that is none) becomes null."""
    try:
        return bytes(memoryview(orjson.dumps(value, option=_OPTIONS)))  # a copy: what orjson gives holds 4 KB for as long as it is kept
    except TypeError:
        return _slowly(_finite(value)).encode()


def loads(raw: bytes | str) -> Any:
    """The value. Raises ValueError for what is no JSON, RecursionError for what is nested too deeply."""
    read = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if _has_long_number(read):
        return json.loads(raw)
    try:
        return orjson.loads(read)
    except ValueError:
        return json.loads(raw)


def _has_long_number(read: bytes) -> bool:
    """Whether a run of so many digits stands anywhere but after a point: many a small fraction has as many. A pattern takes ten times as
    long to say so."""
    alike = read.translate(_DIGITS_ALIKE)
    at = alike.find(_LONG)
    while at > 0 and alike[at - 1] == _POINT:
        at = alike.find(_LONG, at + len(_LONG))
    return at >= 0


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""JSON as it crosses the process's border, by orjson: in and out of a request it is a tenth of the standard library's time.

What orjson does not take (text with lone surrogates, numbers of other kinds, deep nesting) goes to the standard library, so that nothing
that could be read or written before it cannot.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_slowly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any) -> bytes:
    """Compact JSON. What JSON has no number for (the logarithm of a chance of zero, a limit that is none) becomes null."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError:
        return _slowly(_finite(value)).encode()


def loads(raw: bytes | str) -> Any:
    """The value. Raises ValueError for what is no JSON, RecursionError for what is nested too deeply."""
    try:
        return orjson.loads(raw)
    except ValueError:
        return json.loads(raw)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

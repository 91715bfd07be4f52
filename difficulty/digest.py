"""A digest of what is plain data, or nearly: short, equal in every process, and another one where anything changes."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Twelve hex digits that change with the value, but not with the order of a mapping's keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=plain).encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """What JSON has no form for; a set in one order. A secret is not shown."""
    return sorted(value) if isinstance(value, frozenset) else str(value)

"""Intervals of shares, for the cards and the demonstration alike."""

from __future__ import annotations

import math

Z95 = 1.959964


def wilson(right: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927): stays inside [0, 1] and is honest at both ends, where the usual one has no width."""
    if n == 0:
        return 0.0, 1.0
    p, zz = right / n, z * z / n
    centre = (p + zz / 2) / (1 + zz)
    half = z * math.sqrt(p * (1 - p) / n + zz / (4 * n)) / (1 + zz)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # the share is in it, also where rounding has it outside

"""A split: one name for several policies, each with its share of the traffic, so that their answers can be compared (A/B).

Who asks stays with one arm. Which one is a matter of hashes alone (weighted rendezvous hashing: Schindelhauer and Schomaker 2005, "Weighted
distributed hash tables"), so every process says the same, nothing is remembered, and the order of the arms is of no matter. Each arm
draws a number for who asks, and the draw counts the more, the larger its share: where shares change, only those move whom an arm that
shrank gives to one that grew. The split's name is the salt: under another name everybody is assigned anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import log
from typing import NamedTuple

from router.keys import NOBODY
from router.pipeline_types import Ask

USERS = ("user", "safety_identifier")
"""Fields of OpenAI's in which a client says whose request it is; the later name first came beside the earlier, then in its place."""


class Arm(NamedTuple):
    """Where a request was assigned to."""

    split: str
    policy: str


def assigned(split: str, shares: Mapping[str, float], ask: Ask) -> Arm:
    """The arm of a split that a request belongs to."""
    who = subject(ask)
    return Arm(split, max((name for name in shares if shares[name]), key=lambda name: log(position(split, name, who)) / shares[name]))


def subject(ask: Ask) -> str:
    """Whose requests stay together: those of the session, else of the user that the client names, else of the key, else this one alone."""
    named = (ask.request.extra.get(name) for name in USERS)
    user = next((name for name in named if isinstance(name, str) and name), None)
    key = ask.purse.key
    found = (("session", ask.session), ("user", user), ("key", None if key is NOBODY else key.id), ("request", ask.id))
    return next(f"{kind}:{name}" for kind, name in found if name)


def position(*names: str) -> float:
    """A number between 0 and 1, both excluded, that the names alone decide; evenly spread over names."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return ((int.from_bytes(digest[:8]) >> 11) + 0.5) / (1 << 53)


def shown(shares: Mapping[str, float]) -> str:
    """For a person: `90 % balanced, 10 % thorough`."""
    return ", ".join(f"{share * 100:g} % {name}" for name, share in shares.items())

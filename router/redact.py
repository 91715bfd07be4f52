"""What must not lie about in a log, taken out of a text: e-mail addresses, keys and passwords, long numbers.

A net with holes, not a promise: names and addresses of streets stay. Who must keep those out keeps `log.prompts` off.
"""

from __future__ import annotations

import re

RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("key", re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL)),
    ("key", re.compile(r"\b(?:sk|pk|rk|ghp|gho|ghs|github_pat|glpat|xox[abprs]|hf|AKIA|ASIA|AIza|ya29)[-_.]?[A-Za-z0-9_\-.]{12,}")),
    ("key", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?")),
    ("key", re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}")),
    (
        "key",
        re.compile(
            r"(?i)(?:(?<=password)|(?<=passwd)|(?<=api_key)|(?<=api-key)|(?<=apikey)|(?<=secret)|(?<=token))[\"']?\s*[:=]\s*[^\s,;]+"
        ),
    ),
    ("key", re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)")),
    ("email", re.compile(r"[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+")),
)
"""In this order: what stands in place of a match, and what matches."""

UNBROKEN = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{32,}={0,2}")
DIGITS = re.compile(r"(?<![\w.,])\+?\(?\d{2,}(?:[ ()-]{1,3}\d{2,})*(?![\w])")
LONG = 9
"""Digits from which a number may be that of a person, an account or a card: in one piece, or in groups of three and more on average."""


EDGE = 200
"""Characters within which a cut may have made of a key or an address something that no rule knows."""


def redacted(text: str) -> str:
    """The text with `[email]`, `[key]`, `[number]` for what was found."""
    for name, pattern in RULES:
        text = pattern.sub(f"[{name}]", text)
    return DIGITS.sub(_number, UNBROKEN.sub(_token, text))


def redacted_start(text: str, characters: int) -> str:
    """At most so many characters of the redacted text. Of a longer text more is read than shown: half a key is secret too."""
    start = redacted(text[: characters + EDGE])
    return (start if len(text) <= characters + EDGE else start[:-EDGE])[:characters]


def _token(found: re.Match[str]) -> str:
    """Letters and digits mixed, and no space for so long, are no word."""
    mixed = any(c.isdigit() for c in found[0]) and any(c.isalpha() for c in found[0])
    return "[key]" if mixed else found[0]


def _number(found: re.Match[str]) -> str:
    groups = re.findall(r"\d+", found[0])
    digits = sum(map(len, groups))
    return "[number]" if digits >= LONG and digits >= 3 * len(groups) else found[0]

"""Redaction: what it takes out, and what it leaves, so that a log is still of use."""

from __future__ import annotations

import time

import pytest

from router.redact import redacted, redacted_start


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ann.b+c@mail.example.org, please", "write to [email], please"),
        ("key sk-proj-abcDEF1234567890abcd end", "key [key] end"),
        ("ghp_abcdefghijklmnopqrstuvwxyz012345 and AKIAIOSFODNN7EXAMPLE", "[key] and [key]"),
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer [key]"),
        ("password=hunter2, ok", "password[key], ok"),
        ('{"api_key": "short"}', '{"api_key[key]'),
        ("redis://user:pass@host:6379/0", "redis://[key]@host:6379/0"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc", "[key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----!", "[key]!"),
        ("card 4111 1111 1111 1111, phone +49 (30) 1234-5678.", "card [number], phone [number]."),
        ("1234567890", "[number]"),
        ("d41d8cd98f00b204e9800998ecf8427e", "[key]"),
    ],
)
def test_secrets_go(text: str, left: str) -> None:
    """Each kind, with its surroundings kept."""
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "Use 4 9 10 13 to make 24.", "In 2026, pi is 3.14159265358979.", "f(x) = x**2 @ y", "the token economy", "sk8er boi", "12345678",
        "Use 10 13 24 25 50 to make 24.", "1 2 3 4 5 6 7 8 9 10",
        "x = 0.123456789012",
        "antidisestablishmentarianism-and-other-words-of-length",
    ],
)  # fmt: skip
def test_prompts_stay_as_they_are(text: str) -> None:
    """Puzzles, years, decimals and plain words."""
    assert redacted(text) == text


@pytest.mark.parametrize("secret", ["ann.b+c@mail.example.org", "sk-proj-abcDEF1234567890abcd", "4111 1111 1111 1111"])
@pytest.mark.parametrize("before", ["", "bob@example.org " * 30])
def test_a_cut_leaves_no_half_of_a_secret(before: str, secret: str) -> None:
    """Wherever the cut falls, also where addresses before it made the text shorter; and a start is no longer than was asked for."""
    text = f"{before}say {secret} {'and more ' * 100}"
    for characters in range(len(text)):
        start = redacted_start(text, characters)
        assert len(start) <= characters
        assert secret[:4] not in start
    assert redacted_start(text, len(text)) == redacted(text)


@pytest.mark.parametrize(
    "piece", ["a", "1 ", "123 ", "a@", "a@a.", "A/", "-----BEGIN A-----", "sk-", "://a:", "eyJaaaaaaaa.", "password= "]
)
def test_a_hostile_text_takes_time_in_proportion(piece: str) -> None:
    """Sixteen times the length takes far less than its square: no pattern holds up the process."""

    def took_s(n: int) -> float:
        started = time.process_time()
        redacted(piece * n)
        return time.process_time() - started

    assert took_s(16_000) < 100 * took_s(1000) + 0.5

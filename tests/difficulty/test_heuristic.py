"""The probe that needs no model."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difficulty.heuristic import _ASKED, _BOUND, HeuristicProbe, _words, hardness


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_prompt_that_says_more_is_never_easier(text: str, more: str) -> None:
    assert hardness(f"{text} {more}") >= hardness(text)


@given(st.lists(st.sampled_from([*_ASKED, *_BOUND, "optimize", "Optimise", "WHY", "somehow", "plans", "_not", "at", "2not", "-", "é"])))
def test_words_count_whole_and_in_any_case(said: list[str]) -> None:
    """As the plain pattern finds them, one after the other."""
    for words in (_ASKED, _BOUND):
        plain = re.compile(rf"\b(?:{'|'.join(words)})\b", re.I)
        for text in (" ".join(said), "".join(said), "-".join(said)):
            assert len(_words(*words).findall(text.lower())) == len(plain.findall(text))


@pytest.mark.parametrize(
    "harder",
    [
        "Use 4 9 10 13 7 2 to make 24.",
        "Use 4 9 to make x^2 + 3*y >= 24.",
        "Use 4 9 to make 24. Explain why.",
        "Use 4 9 to make 24. Each must be used exactly once.",
        "Use 4 9 to make 24.\n- one way\n- another way",
        "Use 4 9 to make 24.\n```\nprint()\n```",
        "Use 4 9 to make 24. " + "The weather is fine today. " * 20,
    ],
)
def test_each_sign_of_difficulty_counts(harder: str) -> None:
    assert hardness(harder) > hardness("Use 4 9 to make 24.")


def test_a_dearer_backend_is_trusted_more_and_a_harder_prompt_less() -> None:
    texts = ["Say hello.", "Prove that 3 4 5 6 7 8 must each divide 9 10 11. Explain why."]
    easy, hard = HeuristicProbe(["small", "large"]).estimate(texts)
    for estimate in (easy, hard):
        assert estimate.p_correct["small"] < estimate.p_correct["large"]
    assert hard.p_correct["small"] < easy.p_correct["small"]
    assert hard.features["small"] < easy.features["small"]


def test_known_priors_replace_the_guess_by_price() -> None:
    guessed, known = HeuristicProbe(["a", "b"]), HeuristicProbe(["a", "b"], {"a": 0.9})
    assert known.estimate(["Hi."])[0].p_correct["a"] > guessed.estimate(["Hi."])[0].p_correct["a"]
    assert known.estimate(["Hi."])[0].p_correct["b"] == guessed.estimate(["Hi."])[0].p_correct["b"]


def test_an_estimate_says_where_it_comes_from_and_costs_no_tokens() -> None:
    (estimate,) = HeuristicProbe(["a"], source="fallback").estimate(["Hello there."])
    assert (estimate.source, estimate.tokens_read, estimate.input_tokens) == ("fallback", 0, 3)


def test_a_light_router_starts_without_torch_or_scikit_learn() -> None:
    """Everything that serving needs, short of an encoder that reads, is imported without the heavy packages."""
    code = (
        "import sys, difficulty.artifact, difficulty.service, difficulty.heuristic, difficulty.fit, difficulty.report\n"
        "assert difficulty.heuristic.HeuristicProbe(['a']).estimate(['x'])\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

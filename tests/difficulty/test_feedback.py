"""What feedback teaches: corrections that find a true shift, stay bounded, fade and can be taken back; and verifiers' health."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difficulty.belief import logit, sigmoid
from difficulty.feedback import Answer, Cell, Corrections, Counts, Fading, added, corrections, counted, health

FADING = Fading()
rng = np.random.default_rng(0)


def labelled(n: int, off: float, domain: str = "maths", epoch: int = 0, backend: str = "small") -> dict[Cell, Counts]:
    """Feedback on answers whose true logit is `off` above what was believed."""
    counts: dict[Cell, Counts] = {}
    for believed in rng.normal(0.5, 1.0, n):
        right = float(rng.random() < sigmoid(believed + off))
        counts = added(counts, counted(Answer(backend, float(believed)), domain, right, epoch))
    return counts


@pytest.mark.parametrize("off", [-1.5, -0.4, 0.0, 0.8])
def test_a_true_shift_is_found(off: float) -> None:
    """From 2,000 labels to within .2."""
    assert corrections(labelled(2000, off), 0, FADING).of("maths")["small"] == pytest.approx(off, abs=0.2)


def test_one_domain_alone_moves_the_others_half_as_far() -> None:
    """Whether it is the backend or the domain, nobody knows yet; from many domains it is known to be the backend."""
    one = corrections(labelled(2000, -1.0), 0, FADING)
    assert one.of("code")["small"] == pytest.approx(one.of("maths")["small"] / 2, rel=0.05)
    counts: dict[Cell, Counts] = {}
    for domain in "abcdefgh":
        counts = added(counts, labelled(500, -1.0, domain))
    assert corrections(counts, 0, FADING).of("code")["small"] < -0.75


def test_corrected_chances_are_better_than_uncorrected_ones() -> None:
    """Squared error on labels never seen, where the belief was off by one logit."""
    shift = corrections(labelled(300, -1.0), 0, FADING).of("maths")["small"]
    believed = rng.normal(0.5, 1.0, 4000)
    right = rng.random(4000) < sigmoid(believed - 1.0)
    assert np.mean((sigmoid(believed + shift) - right) ** 2) < np.mean((sigmoid(believed) - right) ** 2) - 0.02


def test_a_few_labels_move_little_and_no_number_moves_beyond_the_bound() -> None:
    """One angry label is no news; a thousand wrong ones end at the bound."""
    wrong = counted(Answer("small", 2.0), "maths", 0.0, 0)
    assert -0.25 < corrections(wrong, 0, FADING).of("maths")["small"] < 0
    assert corrections(added({}, wrong, 1000), 0, FADING).of("maths")["small"] == -FADING.max_shift


def test_a_domain_leans_on_the_others_until_it_has_labels_of_its_own() -> None:
    """A domain with one label takes nearly the shift of all; one with many takes its own."""
    counts = added(labelled(1000, -1.0, "law"), labelled(1000, 0.5, "code"))
    counts = added(counts, counted(Answer("small", 0.0), "new", 1.0, 0))
    found = {domain: corrections(counts, 0, FADING).of(domain)["small"] for domain in ("law", "new", "code", "never seen")}
    assert found["law"] < found["new"] < found["code"]
    assert found["new"] == pytest.approx(found["never seen"], abs=0.2)


def test_old_labels_fade() -> None:
    """What was so long ago is outweighed by as many newer labels, and forgotten after five half-lives."""
    old, new = labelled(500, -1.0, epoch=0), labelled(500, 1.0, epoch=12)
    assert corrections(added(old, new), 12, FADING).of("maths")["small"] > 0.4
    assert corrections(old, 20, FADING) == Corrections()
    assert Fading(half_life_days=8).epoch(17) == 8


@given(st.floats(-9, 9), st.floats(0, 1), st.floats(0.01, 0.99), st.sampled_from(["", "maths"]))
def test_what_was_counted_can_be_taken_back(believed: float, label: float, score: float, domain: str) -> None:
    """A label that is changed leaves no trace of the first."""
    before = counted(Answer("small", 1.0, "exact", 0.9), "maths", 1.0, 3)
    more = counted(Answer("small", believed, "exact", score), domain, label, 3)
    after = added(added(before, more), more, -1.0)
    assert all(np.allclose(row, before.get(cell, (0, 0, 0)), atol=1e-9) for cell, row in after.items())


def test_a_cell_is_read_back_from_its_name() -> None:
    """Whatever the domain is called."""
    for cell in (Cell(3, "backend:small", -6), Cell(0, "verifier:exact", 5, "a|b|c")):
        assert Cell.parse(str(cell)) == cell
    with pytest.raises(ValueError, match="unpack"):
        Cell.parse("nonsense")


def test_an_answer_that_nothing_was_believed_of_teaches_nothing_of_its_backend() -> None:
    """A request that named its backend was never estimated."""
    assert counted(Answer("small", None), "maths", 1.0, 0) == {}


def judged(scores: list[float], labels: list[float]) -> dict[Cell, Counts]:
    counts: dict[Cell, Counts] = {}
    for score, label in zip(scores, labels, strict=True):
        counts = added(counts, counted(Answer("small", None, "exact", score), "", label, 0))
    return counts


def test_the_health_of_a_verifier() -> None:
    """A good one, a useless one, and one whose wrong answers score high, by hand."""
    good = health(judged([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]), 0)["exact"]
    assert (good.labels, good.auc, good.false_positive_rate, good.agreement) == (4, 1.0, 0.0, 1.0)
    useless = health(judged([0.9, 0.9, 0.2, 0.2], [1, 0, 1, 0]), 0)["exact"]
    assert (useless.auc, useless.false_positive_rate, useless.agreement) == (0.5, 0.5, 0.5)
    fooled = health(judged([0.7, 0.97, 0.97], [1, 0, 0]), 0)["exact"]
    assert (fooled.auc, fooled.false_positive_rate) == (0.0, 1.0)


def test_the_area_under_the_curve_is_near_that_of_the_scores_themselves() -> None:
    """Bins cost a little: within .03 of the exact one."""
    labels = rng.random(3000) < 0.5
    scores = sigmoid(rng.normal(0, 1.5, 3000) + 1.5 * labels)
    exact = float(np.mean(scores[labels][:, None] > scores[~labels][None, :]))
    found = health(judged([float(s) for s in scores], [float(y) for y in labels]), 0)["exact"].auc
    assert found == pytest.approx(exact, abs=0.03)
    assert float(logit(0.5)) == 0.0

"""A vote among several backends: a strong voice outweighs weak ones, repetition counts little, no vote counts against what it is for, and
a simulation finds the same chances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difficulty.belief import NODES, PRIOR, Belief, Evidence, Scores, Success, sigmoid
from difficulty.learn_votes import fit_agreement
from difficulty.pooled import chances, vote
from difficulty.votes import Votes

BELIEF = Belief.prior({"weak": -0.6, "other": -0.4, "strong": 2.0}, {})
WRONG = 3
"""Wrong answers of every prompt here, all alike."""
ONCE = {"weak": 1, "other": 1, "strong": 1}


def default(name: str) -> Votes:
    return Votes(agree=1 / WRONG)


def repeating(name: str) -> Votes:
    """Of a backend that always says the same."""
    return Votes(slope=0.0, agree=1 / WRONG)


def independent(name: str) -> Votes:
    """Of one whose samples err apart: four count as about four."""
    return Votes(slope=2.16, agree=1 / WRONG)


def said(**by: str) -> tuple[list[str], list[Evidence]]:
    """Votes such as `weak="aab"`: a letter is an answer."""
    pairs = [(letter, Evidence(name)) for name, letters in by.items() for letter in letters]
    return [letter for letter, _ in pairs], [voter for _, voter in pairs]


def test_one_voice_is_right_as_its_backend_is() -> None:
    """A single answer's chance is its backend's, whatever is assumed of wrong answers."""
    for name in ONCE:
        assert chances(BELIEF, *said(**{name: "a"}), default) == {"a": pytest.approx(BELIEF.p_correct(name))}


def test_weak_voices_do_not_outvote_a_strong_one() -> None:
    """Two weak backends agree against the strong one: the majority is theirs, the likelier answer is not."""
    found = chances(BELIEF, *said(weak="a", other="a", strong="b"), default)
    assert found["b"] > 0.6 > found["a"]
    assert sum(found.values()) < 1


def test_many_enough_do() -> None:
    """A strong backend is outvoted by what no wrong answers would agree on: it is a weight, not a veto."""
    backends = {f"m{i}": 0.5 for i in range(7)} | {"strong": 1.5}
    found = chances(Belief.prior(backends, {}), *said(**{name: "a" for name in backends if name != "strong"}, strong="b"), default)
    assert found["a"] > found["b"]


def test_samples_of_one_backend_count_as_much_as_its_log_says() -> None:
    """Four that agree say more than one; of a backend that always says the same they say what one does."""
    one, four = said(weak="a"), said(weak="aaaa")
    grown = {votes: chances(BELIEF, *four, votes)["a"] for votes in (repeating, default, independent)}
    assert chances(BELIEF, *one, default)["a"] == pytest.approx(grown[repeating])
    assert grown[repeating] < grown[default] < grown[independent]


def test_a_good_score_outweighs_a_better_backend() -> None:
    """With a verifier's word on both, the weak backend's answer of a high score beats the strong one's of a low score."""
    scores = Scores.unfitted()
    found = chances(BELIEF, ["a", "b"], [scores.seen("weak", 0.95), scores.seen("strong", 0.05)], default)
    assert found["a"] > found["b"]


def test_agreement_says_little_where_wrong_answers_agree() -> None:
    """Two backends whose wrong answers are always the same are surer of each other's word than of their own by less."""
    apart, alike = (chances(BELIEF, *said(weak="a", other="a"), lambda name, a=a: Votes(agree=a))["a"] for a in (0.1, 0.9))
    assert apart > alike + 0.2
    weighted = [PRIOR @ vote(BELIEF, ONCE, lambda name, a=a: Votes(agree=a), weighted=False) for a in (0.1, 0.9)]
    assert weighted[0] > weighted[1]


EXTREME = Belief.prior({"weak": 0.0, "strong": 0.0}, {"weak": Success(-1.13, 0.26, 1.95, 1.7), "strong": Success(2.17, 0.02, 3.03, 2.63)})
"""As fitted on 40 draws each of 193 prompts of 24 templates: nearly always right or nearly always wrong."""


def alike(name: str) -> Votes:
    """Of backends whose wrong answers are mostly the same."""
    return Votes(agree=0.67)


def test_a_lone_answer_does_not_beat_what_most_said() -> None:
    """Backends that look nearly hopeless where they differ: of eight votes the four for one answer lead, not one of the lone ones."""
    found = chances(EXTREME, *said(strong="aabc", weak="aadd"), alike)
    assert max(found, key=lambda answer: found[answer]) == "a"


@given(st.text("abcd", min_size=1, max_size=6), st.text("abcd", max_size=6), st.floats(-6, 3), st.floats(0, 8), st.floats(0.05, 1))
def test_no_vote_counts_against_what_it_is_for(strong: str, weak: str, centre: float, width: float, agree: float) -> None:
    """Whatever was fitted, an answer that each backend names as often as another or oftener goes out before it."""
    belief = Belief.prior({"strong": 0.0, "weak": -1.0}, dict.fromkeys(("strong", "weak"), Success(centre, 1.0, width, width / 2)))
    found = chances(belief, *said(strong=strong, weak=weak), lambda name: Votes(agree=agree))
    leader = max(found, key=lambda answer: found[answer])
    for answer in found:
        if all(votes.count(answer) >= votes.count(leader) for votes in (strong, weak)):
            assert (strong + weak).count(answer) == (strong + weak).count(leader)


def test_a_score_may_count_against_its_answer() -> None:
    """Two low scores of one answer lose against a high one of another from the same backend: the verifier was asked for that."""
    scores = Scores.unfitted()
    found = chances(BELIEF, ["a", "a", "b"], [scores.seen("weak", score) for score in (0.05, 0.1, 0.95)], default)
    assert found["b"] > found["a"]


def test_all_may_be_wrong_however_many_answers_there_are() -> None:
    """Many different answers say that the prompt is hard, not that one of them must be right, even where wrong answers are mostly alike."""
    alike_all, one_apart, apart = (sum(chances(EXTREME, *said(strong=each), alike).values()) for each in ("aaaa", "aaab", "abcd"))
    assert alike_all > one_apart > apart
    assert apart < 0.7


def test_wrong_answers_are_alike_as_often_as_was_learned() -> None:
    """Over many votes whose wrong answers join earlier ones as often as `agree` says, leaders are right as often as was said, and so are
    all answers together."""
    rng, agree, six, rows = np.random.default_rng(0), 0.6, "uvwxyz", []
    belief = Belief.prior(dict.fromkeys(six, 0.2), dict.fromkeys(six, Success(spread=1.5)))
    for _ in range(3000):
        node, wrong = rng.choice(len(NODES), p=PRIOR), list[int]()
        right = rng.random(len(six)) < sigmoid(belief.logits["u"][node])
        answers = ["right" if yes else str(joined(wrong, 1 / agree - 1, rng)) for yes in right]
        found = chances(belief, answers, [Evidence(name) for name in six], lambda name: Votes(agree=agree))
        leader = max(found, key=lambda answer: found[answer])
        rows.append((found[leader], leader == "right", sum(found.values()), "right" in answers))
    sure, led, some, named = np.mean(rows, axis=0)
    assert sure == pytest.approx(led, abs=0.02)
    assert some == pytest.approx(named, abs=0.02)


def joined(wrong: list[int], theta: float, rng: np.random.Generator) -> int:
    """A wrong answer, which is one of those before with a chance that grows with how many said it."""
    wrong.append(int(rng.choice(wrong)) if wrong and rng.random() < len(wrong) / (theta + len(wrong)) else len(wrong) + 1)
    return wrong[-1]


def test_what_wrong_answers_agree_on_is_learned() -> None:
    """Over many prompts the share of pairs of wrong answers that are alike, a prompt counting once; few prompts leave the default."""
    prompts = [{"a": ["x"] * 9 + ["y"], "b": ["x"], "c": []}, {"a": [], "b": ["z"], "c": []}] * 500
    assert fit_agreement(prompts) == {"a": pytest.approx(0.9, abs=0.01), "b": pytest.approx(0.9, abs=0.01)}
    assert fit_agreement(prompts[:2])["a"] == pytest.approx((0.9 + 5 * Votes().agree) / 6)


def played(times: int = 30_000) -> tuple[np.ndarray, np.ndarray]:
    """One answer of each backend: right with its chance at a node drawn from the prior, else one of the wrong ones. 0 is right."""
    rng = np.random.default_rng(0)
    node = rng.choice(len(NODES), size=times, p=PRIOR)
    right = np.column_stack([rng.random(times) < sigmoid(BELIEF.logits[name][node]) for name in ONCE])
    return np.where(right, 0, rng.integers(1, WRONG + 1, right.shape)), right


def test_the_chance_of_the_leader_is_how_often_it_is_right() -> None:
    """Over many votes played by the same assumptions the leaders' mean chance is the share of them that are right."""
    answers, _ = played(4000)
    found = [chances(BELIEF, [str(a) for a in row], [Evidence(name) for name in ONCE], default) for row in answers]
    leaders = [max(each, key=lambda answer: each[answer]) for each in found]
    mean = np.mean([each[leader] for each, leader in zip(found, leaders, strict=True)])
    assert mean == pytest.approx(np.mean([leader == "0" for leader in leaders]), abs=0.02)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_vote_is_forecast_as_a_simulation_plays_it(weighted: bool) -> None:
    """Played 30,000 times, by weight or by heads (a tie goes to the strongest), the vote is right as often as was expected."""
    answers, _ = played()
    weights = np.array([np.log(BELIEF.p_correct(name) / (1 - BELIEF.p_correct(name)) * WRONG) if weighted else 1.0 for name in ONCE])
    weights[2] += 1e-9
    totals = np.stack([((answers == a) * weights).sum(axis=1) for a in range(WRONG + 1)])
    expected = PRIOR @ vote(BELIEF, ONCE, default, weighted=weighted)
    assert expected == pytest.approx((totals.argmax(axis=0) == 0).mean(), abs=0.012)


def test_a_weighted_vote_is_worth_more_where_one_is_strong() -> None:
    """Heads alone let the weak ones outvote it, and what the vote is worth says so."""
    by_weight, by_heads = (PRIOR @ vote(BELIEF, {"weak": 4, "strong": 1}, default, weighted=weighted) for weighted in (True, False))
    assert by_weight == pytest.approx(BELIEF.p_correct("strong"))
    assert by_heads < by_weight - 0.2


def test_equals_together_are_better_than_each() -> None:
    """Five backends of one strength that err apart are expected to be right together more often than one of them."""
    five = Belief.prior(dict.fromkeys("abcde", 0.5), dict.fromkeys("abcde", Success(spread=0.5)))
    together = PRIOR @ vote(five, dict.fromkeys("abcde", 1), default, weighted=True)
    assert together > five.p_correct("a") + 0.1

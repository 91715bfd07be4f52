"""When a vote is over: the race of the two that lead, solved, against playing it; and what is learned of it from marked samples."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difficulty.learn_votes import Sampled, fit_votes, prefixes, shuffled
from difficulty.votes import Tally, Votes

VOTES = Votes(contest=0.5, lead_worth=0.4)


def brute_force(first: int, second: int, left: int, price: float) -> float:
    """What the best course adds to the chance of being right less the price of its votes, by recursion over every one. The contender who
    is ahead now is the yardstick: another who is named is right more often by what a lead over it is worth."""

    def to_first(a: int, b: int) -> float:
        return (a + VOTES.contest) / (a + b + 2 * VOTES.contest)

    def named(a: int, b: int) -> float:
        return max(0.0, VOTES.lead_worth * (1 - 2 * to_first(a, b)))

    @cache
    def worth(a: int, b: int, left: int) -> float:
        if left == 0:
            return named(a, b)
        to_a = to_first(a, b)
        return max(named(a, b), to_a * worth(a + 1, b, left - 1) + (1 - to_a) * worth(a, b + 1, left - 1) - price)

    return worth(first, second, left)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (2, 0), (2, 1), (3, 2), (5, 4)])
@pytest.mark.parametrize("price", [0.001, 0.01, 0.05])
def test_the_course_is_the_best_of_all(first: int, second: int, price: float) -> None:
    """What it adds, less what its draws cost, is what a recursion over every possible course finds."""
    course = VOTES.course(Tally(first, second, first + second), 9, 1, price)
    net = course.gain - price * sum(course.reached)
    assert net == pytest.approx(brute_force(first, second, 9, price), abs=1e-9)


TALLIES = st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20)).map(lambda t: Tally(max(t[:2]), min(t[:2]), sum(t)))


@given(TALLIES, st.integers(1, 60), st.sampled_from([1, 4]), st.floats(1e-5, 0.1))
def test_whether_it_goes_on_is_whether_the_next_batch_is_reached(tally: Tally, left: int, batch: int, price: float) -> None:
    """The quick answer and the whole course agree; later batches are reached less often, one for each that is left; it adds nothing bad."""
    course = VOTES.course(tally, left, batch, price)
    assert VOTES.goes_on(tally, left, batch, price) == (course.reached[0] > 0)
    assert len(course.reached) == -(-left // batch)
    assert all(early >= late - 1e-12 for early, late in zip(course.reached, course.reached[1:], strict=False))
    assert course.gain >= -1e-12


@given(TALLIES, st.integers(1, 40), st.floats(1e-5, 0.05))
def test_what_is_not_worth_its_price_is_not_worth_a_higher_one(tally: Tally, left: int, price: float) -> None:
    """A dearer sample, and a lead that is worth less, never draw where the cheaper and the worthier stop."""
    if not VOTES.goes_on(tally, left, 1, price):
        assert not VOTES.goes_on(tally, left, 1, 2 * price)
        assert not replace(VOTES, lead_worth=VOTES.lead_worth / 2).goes_on(tally, left, 1, price)


def test_a_settled_vote_is_over_and_an_open_one_is_not() -> None:
    """Five that agree end it; three against two go on; a lead that the votes to come cannot turn ends it at any price."""
    assert not VOTES.goes_on(Tally(5, 0, 5), 35, 1, 0.002)
    assert VOTES.goes_on(Tally(3, 2, 5), 35, 1, 0.002)
    assert not VOTES.goes_on(Tally(6, 2, 8), 2, 1, 0.0)


def test_a_race_that_stays_close_is_given_up() -> None:
    """One vote ahead after three is worth more votes at a price at which one ahead after 23 is not: who wins that hardly matters."""
    assert VOTES.goes_on(Tally(2, 1, 3), 40, 1, 0.003)
    assert not VOTES.goes_on(Tally(12, 11, 23), 40, 1, 0.003)
    assert VOTES.goes_on(Tally(12, 11, 23), 40, 1, 0.0003)


def test_votes_for_neither_make_the_others_dear() -> None:
    """The same race is given up where most samples say something else again."""
    assert VOTES.goes_on(Tally(3, 2, 5), 30, 1, 0.003)
    assert not VOTES.goes_on(Tally(3, 2, 20), 30, 1, 0.003)


def test_one_answer_alone_says_nothing_and_agreement_says_much() -> None:
    """The likelihoods of a lone vote are even; six that agree speak for their answer, two of eight against it."""

    def odds(tally: Tally) -> float:
        right, wrong = VOTES.likelihoods(tally)
        return right / wrong

    assert odds(Tally(1, 0, 1)) == pytest.approx(1.0)
    assert odds(Tally(6, 0, 6)) > 2
    assert odds(Tally(2, 2, 8)) < 1


# --- learning -----------------------------------------------------------------------------------------------------------


def log(alike: float, prompts: int = 200, n: int = 16) -> list[Sampled]:
    """Prompts of all difficulties; of the wrong answers this share is one and the same."""
    rng = np.random.default_rng(0)
    found = []
    for p in rng.beta(1.5, 1.2, prompts):
        right, same = rng.random(n) < p, rng.random(n) < alike
        answer = np.where(right, 0, np.where(same, 1, np.arange(n) + 2))
        found.append(Sampled(answer, right.astype(float)))
    return found


def test_where_wrong_answers_agree_a_new_leader_is_worth_less() -> None:
    """Scattered errors: a change of leader mostly rights a wrong. Systematic ones: it does as often the opposite."""
    scattered, systematic = fit_votes(log(0.1)), fit_votes(log(1.0))
    assert scattered.lead_worth > systematic.lead_worth + 0.2
    assert scattered.right(Tally(4, 1, 8)) > systematic.right(Tally(4, 1, 8))
    assert scattered.majority(8)[0] > systematic.majority(8)[0]


def test_where_a_new_leader_is_never_better_more_votes_are_worth_nothing() -> None:
    """Leaders that are only ever replaced by what is as wrong: the fit sees that no lead is worth a sample, and one is asked for."""
    fixed = [Sampled(np.zeros(10, dtype=np.int64), np.full(10, float(i % 3 == 0))) for i in range(90)]
    swings = [Sampled((np.arange(10) < 4).astype(np.int64), np.zeros(10)) for _ in range(90)]
    votes = fit_votes([*fixed, *swings])
    assert votes.lead_worth < 0.05
    assert not votes.goes_on(Tally(1, 0, 1), 9, 1, 0.002)


def test_the_chance_that_a_leader_is_right_is_as_often_as_it_was() -> None:
    """Calibrated: over the votes after eight samples of other prompts of the same kind, the mean of what is said is what came."""
    votes, rng = fit_votes(log(0.3)), np.random.default_rng(1)
    drawn = [shuffled(sampled, 5, 8, rng) for sampled in log(0.3, 300)]
    seen = prefixes(np.concatenate([a for a, _ in drawn]), np.concatenate([r for _, r in drawn]))
    said = [votes.right(Tally(int(f), int(s), 8)) for f, s in zip(seen.first[:, -1], seen.second[:, -1], strict=True)]
    assert np.mean(said) == pytest.approx(seen.right[:, -1].mean(), abs=0.05)


def test_a_vote_is_counted_as_it_comes() -> None:
    """Of equals the one that came to it first leads; the runner-up is the next; marks are the leader's."""
    seen = prefixes(np.array([[0, 1, 1, 2, 0]]), np.array([[1.0, 0, 0, 0, 1.0]]))
    assert seen.leader.tolist() == [[0, 0, 1, 1, 1]]
    assert seen.first.tolist() == [[1, 1, 2, 2, 2]]
    assert seen.second.tolist() == [[0, 1, 1, 1, 2]]
    assert seen.right.tolist() == [[1, 1, 0, 0, 0]]


def test_nothing_to_learn_from_leaves_the_defaults() -> None:
    """One sample a prompt says nothing of votes."""
    assert fit_votes([Sampled(np.array([0]), np.array([1.0]))]) == Votes()

"""The best rule on the counts: against all rules there are, and what it may not know."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from benchmarks.best_stop import Seen, all_counts, fewest, shares


def paid(stops: np.ndarray, worth: np.ndarray, price: float) -> float:
    """What a rule brings on the mean, less its samples after the first."""
    at = np.where(stops.any(axis=1), stops.argmax(axis=1), stops.shape[1] - 1)
    return float((worth[np.arange(len(at)), at] - price * at).mean())


@pytest.mark.parametrize("price", [0.01, 0.1, 0.3])
def test_no_rule_does_better_on_the_votes_that_it_is_made_from(price: float) -> None:
    """Every way to stop or to go on in each of the states, tried, where how a vote came to a state says nothing."""
    code = np.cumsum(np.array(list(product([0, 1], repeat=4))), axis=1)
    worth = np.random.default_rng(0).random((4, 5))[np.arange(4), code]
    found = paid(Seen.of(code, worth).stops(price), worth, price)
    states = [np.unique(column) for column in code.T[:-1]]
    rules = product(*(product([False, True], repeat=len(there)) for there in states))
    every = []
    for rule in rules:
        stops = np.zeros(code.shape, dtype=bool)
        for n, (there, says) in enumerate(zip(states, rule, strict=True)):
            stops[:, n] = np.array(says)[np.searchsorted(there, code[:, n])]
        every.append(paid(stops, worth, price))
    assert found == pytest.approx(max(every))


def test_a_rule_from_one_half_knows_nothing_of_the_other() -> None:
    """Where the halves say the opposite each is stopped by the other's experience; a state that was not in that goes on."""
    code = np.array([[1, 2], [1, 2], [7, 2]])
    worth = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    seen = Seen.of(code, worth)
    assert seen.in_halves(0.1, np.array([0, 1, 1]))[:, 0].tolist() == [False, True, False]
    assert seen.stops(0.1)[:, 0].tolist() == [True, True, True]


def test_counts_are_the_same_whatever_the_answers_are_called_and_however_they_came() -> None:
    """2, 1 is 2, 1; 3 is another state, and so is 1, 1, 1."""
    code = all_counts(np.array([[0, 0, 1], [1, 0, 1], [2, 2, 2], [0, 1, 2]]))[:, -1]
    assert code[0] == code[1]
    assert len(set(code.tolist())) == 3


def test_an_answer_is_worth_its_share_of_all_samples() -> None:
    """The leader after each sample, by what it will have in the end."""
    answer, leader = np.array([[0, 1, 1, 1]]), np.array([[0, 0, 1, 1]])
    assert shares(answer, leader).tolist() == [[0.25, 0.25, 0.75, 0.75]]


def test_the_fewest_samples_are_those_that_lose_no_more_than_they_may() -> None:
    """A tenth of a point is allowed; where every price loses more there are none."""
    assert fewest([(0.0, 0.9), (-0.1, 0.8), (-0.2, 0.5)]) == (-0.1, 0.8)
    assert fewest([(-0.3, 0.8)]) is None

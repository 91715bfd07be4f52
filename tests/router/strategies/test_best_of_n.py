"""Samples in batches, of which one is chosen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import BackendUnavailable
from adapters.scripted import ScriptedBackend, ScriptedOptions, scripted
from adapters.types import Choice, Price, Verdict
from policies.plans import BestOfN
from router.candidates import Candidate
from router.run import Limits
from router.strategies.best_of_n import best_of_n, choose
from tests.router.strategies.doubles import ASKED, ScriptedVerifier, a_run, stalls_after


def spec(n: int = 4, **options) -> BestOfN:
    return BestOfN(backend="small", n=n, **{"verifier": "reward", **options})


def drawn(*answers: tuple[str, float | None]) -> list[Candidate]:
    return [Candidate(Choice(text), "small", "best_of_n", score) for text, score in answers]


def behaving(*answers: tuple[str, float | None, str]) -> list[Candidate]:
    return [Candidate(Choice(text), "small", "best_of_n", score, cluster=cluster) for text, score, cluster in answers]


# --- choosing ---------------------------------------------------------------------------------------------------------

SAMPLES = drawn(("7", 0.2), ("6", 0.5), ("7", 0.4), ("7", 0.3), ("6", 0.6), ("8", 0.7))


@pytest.mark.parametrize(
    ("select", "text", "score", "votes"), [("best", "8", 0.7, None), ("majority", "7", 0.4, 0.5), ("weighted", "6", 0.6, 1.1 / 2.7)]
)
def test_each_way_to_select_picks_its_own(select, text, score, votes):
    """The highest score; the most frequent answer; the answer with the greatest sum of scores. Of its voters the best speaks."""
    chosen = choose(spec(6, select=select), SAMPLES)
    assert (chosen.text, chosen.score) == (text, score)
    assert chosen.votes == (votes if votes is None else pytest.approx(votes))


def test_ties_go_to_the_higher_score_then_to_the_first():
    """A vote that is even is decided by the best voter; without scores by who came first."""
    even = choose(spec(4, select="majority"), drawn(("7", 0.1), ("6", 0.2), ("7", 0.3), ("6", 0.9)))
    assert (even.text, even.score, even.votes) == ("6", 0.9, 0.5)
    assert choose(spec(2, select="majority"), drawn(("7", None), ("6", None))).text == "7"
    assert choose(spec(2, select="best"), drawn(("7", 0.5), ("6", 0.5))).text == "7"


def test_votes_are_counted_on_answers_not_on_words():
    """Two phrasings of one answer vote together; `answer` says where in the text it is."""
    said = drawn(("The answer is 6.", None), ("#### 7", None), ("so it is 6", None))
    assert choose(spec(3, select="majority"), said).text == "The answer is 6."
    lines = drawn(("a=1 b=2", None), ("a=1 b=3", None), ("a=2 b=3", None))
    assert choose(spec(3, select="majority"), lines).text == "a=1 b=3"
    assert choose(spec(3, select="majority", answer=r"a=(\d)"), lines).text == "a=1 b=2"


@pytest.mark.parametrize("select", ["best", "weighted"])
def test_without_any_score_the_majority_decides(select):
    """With the verifier down agreement is all there is to go by; without agreement, the first."""
    assert choose(spec(3, select=select), drawn(("7", None), ("6", None), ("6", None))).text == "6"
    assert choose(spec(2, select=select), drawn(("7", None), ("6", None))).text == "7"


def test_an_unscored_vote_weighs_as_much_as_an_average_one():
    """A verifier that went down half-way does not silence those it did not see."""
    assert choose(spec(4, select="weighted"), drawn(("6", 0.5), ("7", 0.3), ("7", None), ("8", 0.4))).text == "7"


def test_a_vote_of_no_weight_still_has_a_winner():
    """Where the verifier gives everyone zero, the first is as good as any, and has no share of the vote."""
    chosen = choose(spec(2, select="weighted"), drawn(("6", 0.0), ("7", 0.0)))
    assert (chosen.text, chosen.votes) == ("6", 0.0)


BEHAVIOURS = [("a", 0.6, "x"), ("b", 0.5, "y"), ("c", 0.5, "y"), ("d", 0.5, "y"), ("e", 0.1, "z"), *((f"{i}", 0.1, "z") for i in range(9))]


@pytest.mark.parametrize(("select", "text"), [("best", "a"), ("majority", "e"), ("weighted", "b")])
def test_answers_that_behave_alike_vote_as_one(select, text):
    """All texts differ, so each would have one vote; by what the verifier says of them one is the best, one often, and one both."""
    assert choose(spec(20, select=select), behaving(*BEHAVIOURS)).text == text
    without = behaving(*((text, score, "") for text, score, _ in BEHAVIOURS))
    assert choose(spec(20, select="weighted"), without).text == "a"


def test_of_one_behaviour_a_sure_answer_outweighs_any_number_of_doubtful_ones():
    """The score says the same of all that behave alike, and says it once: four times the votes count twice."""
    crowd = [(f"{i}", 0.1, "wrong") for i in range(100)]
    assert choose(spec(101, select="weighted"), behaving(*crowd, ("right", 0.999, "right"))).text == "right"
    chosen = choose(spec(5, select="weighted"), behaving(("a", 0.5, "x"), *[("b", 0.5, "y")] * 4))
    assert (chosen.text, chosen.votes) == ("b", pytest.approx(2 / 3))


def test_an_answer_without_a_cluster_votes_by_its_text():
    """A program that does not run has no behaviour; its text is never taken for the name of one."""
    votes = behaving(("x", 0.5, ""), ("y", 0.5, "x"), ("x", 0.5, ""))
    assert choose(spec(3, select="weighted"), votes).votes == pytest.approx(2**0.5 / (1 + 2**0.5))


def test_parts_cut_off_do_not_vote():
    """A sample that the deadline cut off has not given its answer; it counts only where there is nothing else."""
    part = Candidate(Choice("7", "cancelled"), "small", "best_of_n")
    assert choose(spec(3, select="majority"), [part, part, *drawn(("6", None))]).text == "6"
    assert choose(spec(1, select="majority"), [part]).text == "7"


ANSWERS = st.lists(st.tuples(st.sampled_from("678"), st.none() | st.floats(0, 1)), min_size=1)


@given(ANSWERS, st.sampled_from(["best", "majority", "weighted"]))
def test_the_chosen_is_always_one_that_was_drawn(answers, select):
    """Whatever came, scored or not, one of them is chosen, and a share of the vote is a share."""
    candidates = drawn(*answers)
    chosen = choose(spec(100, select=select), candidates)
    assert chosen.choice in [c.choice for c in candidates]
    assert chosen.votes is None or 0 <= chosen.votes <= 1


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch", "asked"), [(4, 4, [4]), (4, 1, [1] * 4), (5, 2, [2, 2, 1]), (2, 8, [2])])
async def test_samples_are_drawn_in_batches(n, batch, asked):
    """`n` in all, `batch` at a time, each batch scored before the next; all of them are offered."""
    backend, verifier = scripted("small", "6"), ScriptedVerifier()
    run = a_run(backend, verifier)
    await best_of_n(spec(n, batch=batch), ASKED, run)
    assert [request.n for request in backend.requests] == asked
    assert [call.kind for call in run.calls] == ["generate", "score"] * len(asked)
    assert len(run.pool) == n


async def test_the_policy_ends_the_drawing():
    """Between batches the policy is asked with all answers so far; its no is the end."""
    backend = scripted("small", "6", "7")
    await best_of_n(spec(16, batch=2), ASKED, a_run(backend, next_draws=lambda pool: 6 - len(pool)))
    assert len(backend.requests) == 3


@pytest.mark.parametrize(
    ("own", "of_request", "n", "used"),
    [
        (None, None, 4, None),
        (None, 0.0, 4, 0.0),
        (None, 0.4, 4, 0.4),
        (0.7, 0.4, 4, 0.7),
        (None, None, 1, None),
        (None, 0.0, 1, 0.0),
        (0.7, 0.0, 4, 0.0),
        (0.7, 0.0, 1, 0.0),
    ],
)
async def test_samples_are_drawn_at_a_temperature_at_which_they_differ(own, of_request, n, used):
    """The plan's temperature, else the request's, else the backend's own; but a request that says 0 is taken at its word."""
    backend = scripted("small", "6")
    await best_of_n(spec(n, temperature=own), ASKED.but(temperature=of_request), a_run(backend))
    assert backend.requests[0].temperature == used


async def test_batches_have_seeds_of_their_own():
    """With a seed the draw is reproducible, and no batch repeats another; without one there is none."""
    backend = scripted("small", "6")
    await best_of_n(spec(6, batch=2), ASKED.but(seed=10), a_run(backend))
    assert [request.seed for request in backend.requests] == [10, 12, 14]
    backend = scripted("small", "6")
    await best_of_n(spec(2), ASKED, a_run(backend))
    assert backend.requests[0].seed is None


@pytest.mark.parametrize("select", ["majority", "weighted"])
async def test_a_vote_that_cannot_be_turned_is_over(select):
    """Five of eight agree and are sure: three more could not turn it. Until then they could."""
    backend = scripted("small", "6")
    chosen = await best_of_n(spec(8, batch=1, select=select), ASKED, a_run(backend, ScriptedVerifier(lambda _: 1.0)))
    assert (len(backend.requests), chosen.votes) == (5, 1.0)
    backend = scripted("small", "6", "7")
    await best_of_n(spec(8, batch=1, select=select), ASKED, a_run(backend, ScriptedVerifier(lambda _: 1.0)))
    assert len(backend.requests) == 8


async def test_a_weighted_vote_of_behaviours_waits_for_one_that_is_sure():
    """However many agree, the last sample may be the one that the verifier is sure of; a plain majority is over before."""

    def judged(text: str) -> Verdict:
        return Verdict(0.999 if text == "right" else 0.5, cluster=text)

    for select, text in [("majority", "often"), ("weighted", "right")]:
        backend = scripted("small", *["often"] * 7, "right")
        chosen = await best_of_n(spec(8, batch=1, select=select), ASKED, a_run(backend, ScriptedVerifier(judged)))
        assert chosen.text == text


async def test_majority_needs_no_verifier():
    """Agreement costs nothing to see: no verifier is named, none is called."""
    run = a_run(scripted("small", "7", "6", "6"))
    assert (await best_of_n(spec(3, select="majority", verifier=None), ASKED, run)).text == "6"
    assert {call.kind for call in run.calls} == {"generate"}


async def test_a_sample_that_fails_is_drawn_again():
    """A failure among the samples takes the others not along, and `n` answers are there in the end."""
    run = a_run(scripted("small", "6", native_n=False, fail_every=3))
    await best_of_n(spec(4), ASKED, run)
    assert len(run.pool) == 4
    assert [call.outcome for call in run.calls if call.kind == "generate"].count("BackendUnavailable") >= 1


async def test_a_backend_that_goes_down_ends_the_drawing():
    """What was drawn before is chosen from, and the run says what failed; nothing drawn, the failure is the result."""
    run = a_run(scripted("small", "6", fail_every=2))
    assert (await best_of_n(spec(16, batch=4), ASKED, run)).text == "6"
    assert (len(run.pool), run.degraded) == (4, {"backend:small"})
    with pytest.raises(BackendUnavailable):
        await best_of_n(spec(16), ASKED, a_run(scripted("small", fail_every=1)))


async def test_the_ceiling_ends_the_drawing():
    """With money for five of sixteen, five are drawn and one of them is chosen."""
    run = a_run(scripted("small", "6", price=Price(0, 1e6)), limits=Limits(cost_usd=5))
    await best_of_n(spec(16, batch=2), ASKED.but(max_tokens=1), run)
    assert (len(run.pool), run.spent_usd, run.truncated_by) == (5, 5.0, "cost")


async def test_the_deadline_ends_the_drawing():
    """Samples finished at the deadline are chosen from; the part of the next one is paid for and ignored."""
    backend = ScriptedBackend("small", ScriptedOptions(answers=["1 6", "2 7"], token_delay_s=1), sleep=stalls_after(7))
    run = a_run(backend, limits=Limits(latency_s=0.05))
    chosen = await best_of_n(spec(8, batch=1, select="majority", verifier=None), ASKED, run)
    assert (chosen.text, run.truncated_by) == ("1 6", "deadline")
    assert [c.choice.finish_reason for c in run.pool] == ["stop", "stop", "cancelled"]


async def test_a_verifier_that_goes_down_half_way_leaves_its_scores():
    """The scored batch stands; what came after is unscored and loses to it; the run is marked."""
    run = a_run(scripted("small", "6", "7"), ScriptedVerifier(fails_from=2))
    chosen = await best_of_n(spec(4, batch=2), ASKED, run)
    assert (chosen.score, [c.score for c in run.pool]) == (0.5, [0.5, 0.5, None, None])
    assert run.degraded == {"verifier:reward"}

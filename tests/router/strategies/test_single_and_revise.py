"""One answer, and a chain of attempts."""

from __future__ import annotations

import asyncio

import pytest

from adapters.errors import BackendUnavailable
from adapters.scripted import ScriptedBackend, ScriptedOptions, scripted
from adapters.types import Delta, Price, Verdict
from policies.plans import Revise, Single
from router.run import Limits, OutOfBudget, Scored
from router.strategies.revise import revise, verdict_text
from router.strategies.single import single
from tests.router.strategies.doubles import ASKED, ScriptedVerifier, a_run, by_line, stalls_after

SINGLE = Single(backend="small")


def chain(rounds: int = 4) -> Revise:
    return Revise(backend="small", verifier="reward", rounds=rounds)


def turns(backend: ScriptedBackend, call: int) -> list[str]:
    """What the backend was told in a call after the prompt."""
    return [message["content"] for message in backend.requests[call].messages[1:]]


# --- single -----------------------------------------------------------------------------------------------------------


async def test_a_single_answer_is_the_request_as_it_is():
    """Nothing is added or changed, the answer is offered, and nobody scores it."""
    backend, request = scripted("small", "6"), ASKED.but(temperature=0.3, seed=5, max_tokens=9, extra={"user": "u"})
    run = a_run(backend)
    answer = await single(SINGLE, request, run)
    assert (answer.text, answer.score, answer.plan) == ("6", None, "single(small)")
    assert list(backend.requests) == [request]
    assert run.pool == [answer]


async def test_a_single_answer_is_scored_where_the_plan_names_a_verifier():
    """With a verifier the policy can go on from what it sees."""
    answer = await single(Single(backend="small", verifier="reward"), ASKED, a_run(verifier=ScriptedVerifier(lambda _: 0.8)))
    assert (answer.score, answer.verifier) == (0.8, "reward")


async def test_a_single_answer_is_streamed():
    """The client hears it while it comes."""
    heard: list[str] = []

    async def sink(delta: Delta) -> None:
        heard.append(delta.text)

    await single(SINGLE, ASKED, a_run(scripted("small", "one two"), sink=sink))
    assert "".join(heard) == "one two"


async def test_several_choices_for_the_client_are_all_offered():
    """A request for `n` answers gets them into the pool; the best is the chosen one."""
    run = a_run(scripted("small", "bad", "good"), ScriptedVerifier(lambda text: float(text == "good")))
    assert (await single(Single(backend="small", verifier="reward"), ASKED.but(n=2), run)).text == "good"
    assert [c.text for c in run.pool] == ["bad", "good"]


async def test_a_backend_that_fails_fails_a_single_answer():
    """There is nothing to fall back on here; the policy may try another plan."""
    with pytest.raises(BackendUnavailable):
        await single(SINGLE, ASKED, a_run(scripted("small", fail_every=1)))


async def test_the_answer_survives_its_verifier():
    """A verifier that fails costs the score, not the answer."""
    run = a_run(verifier=ScriptedVerifier(fails_from=1))
    answer = await single(Single(backend="small", verifier="reward"), ASKED, run)
    assert (answer.text, answer.score, answer.verifier) == ("6", None, None)
    assert run.degraded == {"verifier:reward"}


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((), "That looks wrong. Try again."),
        ((0.05, 0.01), "Step 1 looks wrong. Try again."),  # the first is below 0.1
        ((0.1, 0.09), "Step 2 looks wrong. Try again."),  # none has fallen: the lowest
        ((0.8, 0.7, 0.3, 0.01), "Step 3 looks wrong. Try again."),  # the first that fell by more than half
        ((0.8, 0.4), "Step 2 looks wrong. Try again."),  # half is not below half, but it is the lowest
        ((0.3, 0.9, 0.8), "Step 1 looks wrong. Try again."),
        ((0.9,), "Step 1 looks wrong. Try again."),
    ],
)
def test_the_verdict_points_at_the_step_that_went_wrong(steps, said):
    """The first step that lost more than half of what was there before it, else the lowest; without steps, the answer as a whole."""
    assert verdict_text(Scored(0.2, 0.2, steps)) == said


# --- revise -----------------------------------------------------------------------------------------------------------


async def test_a_revision_sees_the_attempt_and_the_verdict():
    """The conversation goes on with the attempt as the assistant's turn and the verdict as the user's."""
    backend = scripted("small", "1+2=3\n3+3=7", "6")
    await revise(chain(2), ASKED, a_run(backend, ScriptedVerifier(by_line({"1+2=3": 0.9, "3+3=7": 0.1}))))
    assert turns(backend, 0) == []
    assert turns(backend, 1) == ["1+2=3\n3+3=7", "Step 2 looks wrong. Try again."]
    assert [message["role"] for message in backend.requests[1].messages] == ["user", "assistant", "user"]


async def test_the_verifier_is_shown_the_question_not_the_verdict():
    """A revision answers what the user asked; the verdict is no question."""
    verifier = ScriptedVerifier()
    await revise(chain(3), ASKED, a_run(verifier=verifier))
    assert verifier.prompts == [ASKED.prompt] * 3


async def test_only_the_last_three_attempts_are_shown():
    """The prompt of a long chain does not grow without end; what is dropped is the oldest."""
    backend = scripted("small", *"abcdef")
    await revise(chain(6), ASKED, a_run(backend))
    assert [len(turns(backend, i)) for i in range(6)] == [0, 2, 4, 6, 6, 6]
    assert turns(backend, 5)[::2] == ["c", "d", "e"]


async def test_the_best_of_the_chain_is_kept():
    """A later attempt that is worse does not replace a better one; every attempt stays in the pool."""
    run = a_run(scripted("small", "bad", "good", "worse"), ScriptedVerifier(lambda text: {"bad": 0.3, "good": 0.8, "worse": 0.1}[text]))
    assert (await revise(chain(3), ASKED, run)).text == "good"
    assert [c.text for c in run.pool] == ["bad", "good", "worse"]


@pytest.mark.parametrize("rounds", [1, 2, 5])
async def test_rounds_are_the_attempts(rounds):
    """`rounds` counts the attempts, the first one included; each is one answer, however many the client asked for."""
    backend = scripted("small", "6")
    await revise(chain(rounds), ASKED.but(n=3), a_run(backend))
    assert [request.n for request in backend.requests] == [1] * rounds


async def test_the_policy_ends_a_chain():
    """After each round the policy is asked, with all answers so far."""
    pools: list[int] = []

    def next_draws(pool) -> int:
        pools.append(len(pool))
        return 2 - len(pool)

    backend = scripted("small", "6")
    await revise(chain(8), ASKED, a_run(backend, next_draws=next_draws))
    assert (pools, len(backend.requests)) == ([1, 2], 2)


async def test_an_unscored_attempt_ends_the_chain():
    """Without a verdict there is nothing to revise by: the verifier's failure in round two ends it, the scored first attempt wins."""
    backend = scripted("small", "a", "b", "c")
    run = a_run(backend, ScriptedVerifier(fails_from=2))
    assert (await revise(chain(4), ASKED, run)).text == "a"
    assert len(backend.requests) == 2
    alone = await revise(chain(4), ASKED, a_run(verifier=ScriptedVerifier(fails_from=1)))
    assert (alone.text, alone.score) == ("6", None)


async def test_what_cannot_be_bought_ends_the_chain():
    """At the ceiling the chain ends with its best; with nothing bought yet, the limit is the result."""
    run = a_run(scripted("small", "6", price=Price(0, 1e6)), limits=Limits(cost_usd=2.5))
    assert (await revise(chain(8), ASKED.but(max_tokens=1), run)).text == "6"
    assert (len(run.pool), run.truncated_by) == (2, "cost")
    with pytest.raises(OutOfBudget):
        await revise(chain(8), ASKED, a_run(scripted("small", price=Price(0, 1e6)), limits=Limits(cost_usd=0.5)))


async def test_a_backend_that_goes_down_ends_the_chain():
    """The attempts before it stand, and the run says what failed."""
    run = a_run(scripted("small", "6", fail_every=3))
    assert (await revise(chain(8), ASKED, run)).text == "6"
    assert (len(run.pool), run.degraded) == (2, {"backend:small"})


async def test_the_deadline_ends_the_chain():
    """An attempt cut off at the deadline does not win against a finished one."""
    backend = ScriptedBackend("small", ScriptedOptions(answers="1 2 3", token_delay_s=1), sleep=stalls_after(6))
    run = a_run(backend, limits=Limits(latency_s=0.05))
    answer = await revise(chain(8), ASKED, run)
    assert (answer.text, answer.choice.finish_reason, run.truncated_by) == ("1 2 3", "stop", "deadline")


async def test_a_chain_that_is_cancelled_while_it_is_scored_keeps_its_answers():
    """Whoever stops it finds the answer in the pool, unscored."""
    verifier = ScriptedVerifier(never=True)
    run = a_run(verifier=verifier)
    task = asyncio.create_task(revise(chain(4), ASKED, run))
    await verifier.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(c.text, c.score) for c in run.pool] == [("6", None)]


async def test_a_verdict_with_steps_is_kept_on_the_candidate():
    """The trace shows why an attempt was revised."""
    run = a_run(verifier=ScriptedVerifier(lambda _: Verdict(0.4, (0.9, 0.4), "second step")))
    answer = await revise(chain(1), ASKED, run)
    assert (answer.steps, answer.reason, answer.raw_score) == ((0.9, 0.4), "second step", 0.4)

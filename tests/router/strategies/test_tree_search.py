"""A beam search over steps, on trees that are written out: the backend knows whole answers and goes on with those that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.errors import BackendUnavailable
from adapters.scripted import ScriptedBackend, ScriptedOptions, scripted
from adapters.types import Call, ChatRequest, Price, text_of
from policies.plans import TreeSearch
from router.run import Limits, OutOfBudget, Scored
from router.strategies.steps import DONE, NEXT_STEP
from router.strategies.tree_search import aggregated, tree_search
from tests.router.strategies.doubles import ASKED, ScriptedVerifier, a_run, by_line, stalls_after

TREE = ("a\nb\n6", "a\nx\n7", "p\nq\n8", "p\ny\n9")
"""Two first steps, two second steps after each, one last step after each of those."""

SCORES = {"a": 0.6, "p": 0.5, "b": 0.3, "x": 0.2, "q": 0.9, "y": 0.1, "6": 0.4, "7": 0.1, "8": 0.8, "9": 0.2}


def spec(**options) -> TreeSearch:
    return TreeSearch(**{"backend": "small", "verifier": "reward", "beam_width": 2, "samples": 4, **options})


def going_on(answers: tuple[str, ...], start: str, draw: int) -> str:
    """What is missing of one of the answers that begin so; nothing where none does, or it is complete."""
    rests = [answer[len(start) :] for answer in answers if answer.startswith(start)] or [""]
    return rests[draw % len(rests)]


def tree(*answers: str, cls: type[ScriptedBackend] = ScriptedBackend, sleep=None, **options) -> ScriptedBackend:
    """A backend that continues the beginning it is given; greedy, with the first answer that fits."""

    def script(request: ChatRequest, draw: int) -> str:
        start = text_of(request.messages[-1]) if request.continue_final else ""
        return going_on(answers or TREE, start, 0 if request.temperature == 0 else draw)

    return cls("small", ScriptedOptions(**options), script=script, **({"sleep": sleep} if sleep else {}))


def starts(backend: ScriptedBackend) -> list[str]:
    """The beginnings that the backend was asked to go on from, in order."""
    return [text_of(request.messages[-1]) if request.continue_final else "" for request in backend.requests]


async def search(backend: ScriptedBackend | None = None, verifier: ScriptedVerifier | None = None, request=ASKED, run=None, **options):
    run = run or a_run(backend or tree(), verifier or ScriptedVerifier(by_line(SCORES)))
    return await tree_search(spec(**options), request, run), run


# --- the way of a search ----------------------------------------------------------------------------------------------


async def test_the_best_path_is_found_step_by_step():
    """Every depth draws next steps, scores the new beginnings and goes on from the best; the best finished answer is chosen."""
    backend, verifier = tree(), ScriptedVerifier(by_line(SCORES))
    answer, run = await search(backend, verifier)
    assert (answer.text, answer.score, answer.choice.finish_reason) == ("p\nq\n8", 0.8, "stop")
    assert verifier.read == ["a\n", "p\n", "a\nb\n", "a\nx\n", "p\nq\n", "p\ny\n", "p\nq\n8", "a\nb\n6"]
    assert starts(backend) == ["", "a\n", "p\n", "p\nq\n", "a\nb\n"]
    assert [c.text for c in run.pool] == ["p\nq\n8", "a\nb\n6"]


async def test_beginnings_are_shown_to_the_verifier_as_unfinished():
    """A process reward model must know whether a text is a whole answer; the separator never ends one."""
    verifier = ScriptedVerifier(by_line(SCORES))
    await search(verifier=verifier)
    assert [reason for text, reason in zip(verifier.read, verifier.finish_reasons, strict=True) if text.endswith("\n")] == ["length"] * 6
    assert verifier.finish_reasons[-2:] == ["stop", "stop"]
    assert set(verifier.prompts) == {ASKED.prompt}


async def test_equal_beginnings_are_scored_once():
    """Sixteen samples of which two differ cost two scores; and nothing is scored twice later on, rollouts included."""
    verifier = ScriptedVerifier(by_line(SCORES))
    await search(verifier=verifier, samples=16, lookahead=2)
    assert len(verifier.read) == len(set(verifier.read))


async def test_steps_are_drawn_from_the_beginning_as_it_is():
    """The backend is given the beginning as an unfinished assistant turn, the separator beside the client's own stop strings."""
    backend = tree()
    await search(backend, request=ASKED.but(stop=("END",), max_tokens=50))
    first, second = backend.requests[0], backend.requests[1]
    assert (first.messages, first.continue_final, first.stop) == (ASKED.messages, False, ("END", "\n"))
    assert (second.messages[-1], second.continue_final) == ({"role": "assistant", "content": "a\n"}, True)


async def test_a_stop_string_of_the_client_ends_the_answer():
    """Only the separator means that there is more to come."""
    backend = tree("a\nb END c\nd")
    answer, _ = await search(backend, request=ASKED.but(stop=(" END",)))
    assert (answer.text, starts(backend)) == ("a\nb", ["", "a\n"])


async def test_an_answer_cut_off_by_length_is_finished():
    """What ran out of tokens has no next step; it is offered as what it is."""
    answer, _ = await search(tree("a\nb c d e\nf"), request=ASKED.but(max_tokens=2))
    assert (answer.text, answer.choice.finish_reason) == ("a\nb c", "length")


async def test_draws_have_seeds_of_their_own():
    """With a seed no two draws of a search share one, so that beams do not repeat each other's luck."""
    backend = tree()
    await search(backend, request=ASKED.but(seed=100))
    taken = [range(request.seed, request.seed + request.n) for request in backend.requests]
    assert len({seed for seeds in taken for seed in seeds}) == sum(map(len, taken))


# --- how the end of an answer is told ---------------------------------------------------------------------------------


class Mute(ScriptedBackend):
    """Like a server that says "stop" at a stop string and at the end alike."""

    async def complete(self, request: ChatRequest, call: Call) -> None:
        await super().complete(request, call)
        call.choices[:] = [replace(choice, stopped_by=None) for choice in call.choices]


async def test_where_the_backend_does_not_say_an_empty_continuation_is_the_end():
    """The same answer is found, a call later, and without a separator at its end."""
    backend = tree(cls=Mute)
    answer, _ = await search(backend)
    assert (answer.text, answer.choice.finish_reason) == ("p\nq\n8", "stop")
    assert "p\nq\n8\n" in starts(backend)


async def test_where_the_backend_says_no_call_is_spent_on_finding_the_end():
    """Once it has named a stop string, the absence of one is the end."""
    backend = tree()
    await search(backend)
    assert "p\nq\n8\n" not in starts(backend)


async def test_a_blank_line_is_a_step_where_the_backend_says_so():
    """An empty step that ended at the separator is not the end of the answer."""
    answer, _ = await search(tree("a\n\nb"), beam_width=1)
    assert answer.text == "a\n\nb"


def prompted(*answers: str, done: str = DONE) -> ScriptedBackend:
    """A backend that only answers whole turns: asked for the next step it gives that, or says that there is none."""

    def script(request: ChatRequest, draw: int) -> str:
        if len(request.messages) == 1:
            return going_on(answers, "", draw)
        asked, start = text_of(request.messages[-1]), text_of(request.messages[-2])
        rest = going_on(answers, start, draw)
        return (rest.split("\n")[0] or done) if asked == NEXT_STEP else rest

    return scripted("small", script=script, continues_prefix=False)


@pytest.mark.parametrize("done", [DONE, ""])
async def test_a_backend_that_cannot_continue_is_asked_for_the_next_step(done):
    """The beginning is shown as its own turn, the next step asked for in words and appended; saying [done], or nothing, ends it."""
    backend = prompted(*TREE, done=done)
    answer, _ = await search(backend)
    assert (answer.text, answer.choice.finish_reason) == ("p\nq\n8", "stop")
    assert not any(request.continue_final for request in backend.requests)
    assert [message["role"] for message in backend.requests[1].messages] == ["user", "assistant", "user"]


async def test_a_prompted_search_that_runs_out_of_steps_asks_for_the_rest():
    """Completion works without continuation too."""
    answer, _ = await search(prompted(*TREE), max_steps=1, beam_width=1)
    assert answer.text.startswith("a\n")
    assert len(answer.text.split("\n")) == 3


# --- knobs ------------------------------------------------------------------------------------------------------------


async def test_beam_width_is_how_many_beginnings_survive():
    """A beam of one follows the first step that looks best and misses the better answer behind the other one."""
    assert (await search(beam_width=1))[0].text == "a\nb\n6"
    assert (await search(beam_width=2))[0].text == "p\nq\n8"


@pytest.mark.parametrize(("samples", "shares"), [(4, [4, 2, 2]), (5, [5, 3, 2]), (7, [7, 4, 3])])
async def test_samples_are_spread_evenly_over_the_beams(samples, shares):
    """All are drawn at every depth; where they do not divide, the better beginning gets the odd one."""
    backend = tree()
    await search(backend, samples=samples)
    assert [request.n for request in backend.requests][:3] == shares


async def test_lookahead_changes_the_ranking():
    """The first step that looks better leads nowhere: a rollout of one step shows it, and a beam of one takes the other."""
    assert (await search(beam_width=1, lookahead=0))[0].text == "a\nb\n6"
    assert (await search(beam_width=1, lookahead=1))[0].text == "p\nq\n8"


async def test_rollouts_are_greedy_and_thrown_away():
    """They are drawn at temperature 0, one answer each, and the beginning that is kept is the one before the rollout."""
    backend = tree()
    await search(backend, beam_width=1, lookahead=1, request=ASKED.but(temperature=0.8))
    rollouts = [request for request in backend.requests if request.temperature == 0]
    assert {text_of(request.messages[-1]) for request in rollouts[:2]} == {"a\n", "p\n"}
    assert {request.n for request in rollouts} == {1}
    assert starts(backend)[3] == "p\n"


async def test_an_answer_that_a_rollout_finishes_is_offered():
    """It has been paid for: with a lookahead to the end the pool has answers after the first depth."""
    _, run = await search(max_steps=1, lookahead=2)
    assert {c.text for c in run.pool} == {"a\nb\n6", "p\nq\n8"}
    assert len({c.text for c in run.pool}) == len(run.pool)


@pytest.mark.parametrize(("aggregate", "text"), [("last", "L\nl\n1"), ("min", "M\nm\n2"), ("prod", "P\np\n3")])
async def test_aggregate_decides_which_beginning_is_best(aggregate, text):
    """The last step's score, the lowest, or the product of all: each prefers another path."""
    scores = {"L": 0.2, "l": 0.99, "M": 0.6, "m": 0.7, "P": 0.5, "p": 0.95}
    backend = tree("L\nl\n1", "M\nm\n2", "P\np\n3")
    answer, _ = await search(backend, ScriptedVerifier(by_line(scores)), beam_width=1, lookahead=1, aggregate=aggregate)
    assert answer.text == text


def test_a_verifier_without_step_scores_is_taken_by_its_score():
    """All aggregates agree on it; an unscored beginning is the last to go on from."""
    assert {aggregated(spec(aggregate=how), Scored(0.3, 0.4)) for how in ("last", "min", "prod")} == {0.4}
    assert aggregated(spec(), Scored()) < aggregated(spec(), Scored(0.0, 0.0))


async def test_the_separator_is_what_ends_a_step():
    """Another separator cuts the same answer into other steps."""
    verifier = ScriptedVerifier()
    answer, _ = await search(tree("a;b\nc;d"), verifier, separator=";")
    assert (answer.text, verifier.read) == ("a;b\nc;d", ["a;", "a;b\nc;", "a;b\nc;d"])


@pytest.mark.parametrize(("max_steps", "calls"), [(1, ["", "a\n"]), (2, ["", "a\n", "a\nb\n"]), (3, ["", "a\n", "a\nb\n"])])
async def test_a_search_that_finishes_nothing_completes_its_best_beginning(max_steps, calls):
    """After `max_steps` the best beginning is completed in one go, without the separator as a stop, scored and offered."""
    backend = tree()
    answer, run = await search(backend, beam_width=1, max_steps=max_steps)
    assert (answer.text, answer.score, run.pool) == ("a\nb\n6", 0.4, [answer])
    assert starts(backend) == calls
    assert backend.requests[-1].stop == (() if max_steps < 3 else ("\n",))


@pytest.mark.parametrize(("own", "of_request", "used"), [(None, None, None), (0.6, 0.0, 0.0), (None, 0.3, 0.3), (0.6, 0.3, 0.6)])
async def test_steps_are_drawn_at_a_temperature_at_which_they_differ(own, of_request, used):
    """The plan's temperature, else the request's, else the backend's own; but a request that says 0 is taken at its word."""
    backend = tree()
    await search(backend, request=ASKED.but(temperature=of_request), temperature=own)
    assert {request.temperature for request in backend.requests} == {used}


async def test_the_policy_ends_a_search_that_has_an_answer():
    """A no counts only once there is something to answer with."""
    backend = tree("6", "a\nb\nc\nd")
    answer, _ = await search(run=a_run(backend, ScriptedVerifier(by_line({"6": 0.9})), next_draws=lambda pool: 0))
    assert (answer.text, len(backend.requests)) == ("6", 1)
    backend = tree("6", "a\nb\nc\nd")
    await search(backend)
    assert len(backend.requests) > 1
    backend = tree()
    await search(run=a_run(backend, ScriptedVerifier(by_line(SCORES)), next_draws=lambda pool: 0))
    assert starts(backend) == ["", "a\n", "p\n", "p\nq\n", "a\nb\n"]


# --- when something fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fails_from", "text"), [(1, "a\nb\n6"), (2, "a\nb\n6")])
async def test_without_scores_the_best_beginning_is_completed(fails_from, text):
    """There is nothing to search by: one continuation from where scores ended, unscored, and the verifier is not asked again."""
    verifier = ScriptedVerifier(by_line(SCORES), fails_from=fails_from)
    answer, run = await search(verifier=verifier)
    assert (answer.text, answer.score, run.degraded) == (text, None, {"verifier:reward"})
    assert [call.kind for call in run.calls].count("score") == fails_from


async def test_a_beginning_that_fails_leaves_the_others():
    """One call of a depth breaks; the search goes on with what the other one brought."""
    backend = tree(fail_every=3)
    answer, run = await search(backend)
    assert answer.text == "a\nb\n6"
    assert [call.outcome for call in run.calls].count("BackendUnavailable") >= 1


async def test_a_backend_that_goes_down_leaves_what_was_finished():
    """With an answer at hand its failure ends the search; without a single step it is the result."""

    class Dying(ScriptedBackend):
        async def complete(self, request: ChatRequest, call: Call) -> None:
            if len(self.requests) >= 2:
                raise BackendUnavailable("small", "gone")
            await super().complete(request, call)

    answer, run = await search(tree("6", "a\nb\nc\nd", cls=Dying))
    assert (answer.text, run.degraded) == ("6", {"backend:small"})
    answer, run = await search(tree("a\nb\nc\nd", cls=Dying))
    assert (answer.text, answer.choice.finish_reason, run.pool) == ("a\nb\n", "cancelled", [answer])
    with pytest.raises(BackendUnavailable):
        await search(tree(fail_every=1))


async def test_at_the_ceiling_the_search_gives_what_it_has():
    """Money for one step only: the best beginning is the answer, marked as cut off; no money at all, the limit is the result."""
    backend = tree(price=Price(0, 1e6))
    run = a_run(backend, ScriptedVerifier(by_line(SCORES)), limits=Limits(cost_usd=3.5))
    answer, _ = await search(run=run, request=ASKED.but(max_tokens=3))
    assert (answer.text, answer.choice.finish_reason, run.truncated_by) == ("a\n", "cancelled", "cost")
    assert run.spent_usd <= 3.5
    with pytest.raises(OutOfBudget):
        await search(run=a_run(tree(price=Price(0, 1e6)), limits=Limits(cost_usd=0.5)))


async def test_at_the_deadline_the_search_gives_what_it_has():
    """The backend falls silent at the third depth: the best beginning so far comes, marked as cut off."""
    backend = tree(delay_s=1, sleep=stalls_after(3))
    run = a_run(backend, ScriptedVerifier(by_line(SCORES)), limits=Limits(latency_s=0.05))
    answer, _ = await search(run=run)
    assert (answer.text, answer.choice.finish_reason, run.truncated_by) == ("p\nq\n", "cancelled", "deadline")


async def test_scores_that_cannot_be_paid_for_end_the_search_not_the_answer():
    """Where the verifier alone is too dear, the answer is completed without it."""
    run = a_run(tree(), ScriptedVerifier(by_line(SCORES), price=Price(0, 1e6)), limits=Limits(cost_usd=600))
    answer, _ = await search(run=run, samples=2, lookahead=0)
    assert answer.text.count("\n") == 2
    assert run.spent_usd <= 600


async def test_a_completion_without_a_verifier_keeps_no_money_back_for_it():
    """The verifier is down, and the money left would not pay for another score: it pays for the rest of the answer."""
    judge = ScriptedVerifier(price=Price(1e6, 0), fails_from=1)
    run = a_run(tree(), judge, limits=Limits(cost_usd=300.5))
    answer, _ = await search(run=run, beam_width=1, samples=1, request=ASKED.but(max_tokens=4))
    assert (answer.text, answer.choice.finish_reason, len(judge.read)) == ("a\nx\n7", "stop", 1)

"""One request through all of it: what it costs, what it says of itself, and what happens when a part fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from adapters.cache import MemoryCache
from adapters.errors import VerifierError
from adapters.scripted import Answer, scripted
from adapters.types import Backend, Call, ChatRequest, Choice, Delta, Price, Verdict
from difficulty.belief import Belief, Channel, Scores, Success
from difficulty.curves import Curves, Latency, PlanFit, Tokens
from difficulty.errors import ProbeUnavailable
from difficulty.probe import Estimate
from difficulty.service import ProbeService, ProbeServiceOptions
from difficulty.votes import Votes
from policies.decide import decide
from policies.facts import Market
from policies.plans import BestOfN, Single, TreeSearch
from policies.policy import Policy
from router.errors import BackendFailed, DeadlineExceeded, InvalidRequest, OverBudget, UnknownModel
from router.parts import Parts
from router.pipeline import Router
from router.pipeline_types import Ask, CacheControl
from router.record import DecisionLog, facts_from_json
from tests.difficulty.doubles import WatchedProbe

SMALL, LARGE = Price(1.0, 1.0), Price(14.0, 14.0)


@dataclass
class Exact:
    """A verifier that knows the word `right`."""

    name: str = "exact"
    price: Price = field(default_factory=lambda: Price(1.0, 0.0))
    scores_prefixes: bool = False
    fails: bool = False
    asked: int = 0

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        self.asked += len(choices)
        if self.fails:
            raise VerifierError(self.name, "gone")
        call.input_tokens = 10 * len(choices)
        return [Verdict(1.0 if "right" in choice.text else 0.0) for choice in choices]

    async def aclose(self) -> None: ...


@dataclass
class Probe:
    """Says how hard every prompt is, or that it cannot."""

    ease: float = 0.0
    down: bool = False

    async def estimate(self, text: str) -> Estimate:
        if self.down:
            raise ProbeUnavailable("timeout", "too slow")
        return Estimate({"small": self.ease, "large": self.ease + 1}, {"small": 0.5, "large": 0.7}, "probe", 5, 5)

    async def aclose(self) -> None: ...


CURVES = Curves(
    success={"small": Success(spread=1.0), "large": Success(spread=1.0)},
    tokens={"small": Tokens(1.0, 0.0, 0.1), "large": Tokens(1.0, 0.0, 0.1)},
    latency={"small": Latency(0.01, 0.001, 0.1), "large": Latency(0.02, 0.001, 0.1), "exact": Latency(0.001, 0.0, 0.1)},
    scores={"exact": Scores.exact()},
    plans={"revise(small, verifier=exact)": PlanFit(Channel(0.5))},
)
PLANS: list[dict[str, Any]] = [
    {"single": {"backend": "small"}},
    {"revise": {"backend": "small", "verifier": "exact"}},
    {"best_of_n": {"backend": "small", "n": 8, "batch": 4, "verifier": "exact"}},
    {"single": {"backend": "large"}},
]


def a_policy(value: float = 1e-3, plans: list[dict[str, Any]] | None = None, **more: Any) -> Policy:
    raw = {"objective": {"value_of_correct_usd": value}, "plans": plans or PLANS, **more}
    return TypeAdapter(Policy).validate_python(raw)


def a_router(
    small: Backend | None = None, large: Backend | None = None, *, policy: Policy | None = None,
    probe: Any = None, verifier: Exact | None = None, **more: Any,
) -> Router:  # fmt: skip
    backends = {
        "small": small or scripted("small", "wrong one", "a right one", price=SMALL),
        "large": large or scripted("large", "the right one", price=LARGE),
    }
    prices = {"small": (1.0, 1.0), "large": (14.0, 14.0), "exact": (1.0, 0.0)}
    return Router(
        Parts(
            backends=backends, verifiers={"exact": verifier or Exact()},
            policies={"balanced": policy or a_policy()}, default_policy="balanced",
            market=Market(prices, frozenset(backends), CURVES), probe=probe or Probe(), probe_price=Price(1.0), **more,
        )
    )  # fmt: skip


def an_ask(text: str = "a question of some words", model: str = "auto", **more: Any) -> Ask:
    fields = {name: more.pop(name) for name in ("n", "max_tokens", "extra", "messages") if name in more}
    messages = fields.pop("messages", ({"role": "user", "content": text},))
    return Ask(ChatRequest(messages, **fields), model, **more)


async def test_a_right_answer_goes_out_with_its_cost_and_its_reason() -> None:
    """The wrong first attempt is revised; usage, trace and cost agree, and the block says which action was taken and why."""
    outcome = await a_router().answer(an_ask())
    assert outcome.candidates[0].text == "a right one"
    assert outcome.plan == "revise(small, verifier=exact)"
    calls = outcome.decision["calls"]
    assert [call["kind"] for call in calls] == ["estimate", "generate", "score", "generate", "score"]
    assert outcome.cost_usd == pytest.approx(sum(call["cost_usd"] for call in calls))
    assert outcome.input_tokens == sum(call["input_tokens"] for call in calls)
    assert outcome.output_tokens == sum(call["output_tokens"] for call in calls)
    assert outcome.decision["decisions"][0]["reason"].startswith("expected right")
    assert outcome.decision["actions"][0]["chance"] > 0.99
    assert outcome.baseline_usd is not None
    assert outcome.baseline_usd > 0


async def test_every_logged_decision_can_be_made_again() -> None:
    """From the block alone, facts and belief, `decide` takes the same action."""
    router = a_router(scripted("small", "wrong", price=SMALL))
    outcome = await router.answer(an_ask())
    assert len(outcome.decision["decisions"]) > 1
    for row in outcome.decision["decisions"]:
        facts, belief = facts_from_json(row["facts"]), Belief.from_json(row["belief"])
        again = decide(router.parts.policies["balanced"], router.parts.market, facts, belief)
        assert (again.plan.key if again.plan else None) == row["plan"]


async def test_an_explored_plan_is_logged_with_its_chance_and_can_be_decided_again() -> None:
    """Half of the first plans are drawn: the block holds the number that was drawn and the propensity, so that it replays."""
    router, taken = a_router(policy=a_policy(explore=0.5)), set()
    for _ in range(40):
        (first, *_), policy = (await router.route(an_ask()))["decisions"], router.parts.policies["balanced"]
        again = decide(policy, router.parts.market, facts_from_json(first["facts"]), Belief.from_json(first["belief"]))
        assert (again.plan.key if again.plan else None, again.propensity) == (first["plan"], first["propensity"])
        taken.add((first["cause"], first["propensity"]))
    assert taken == {("utility", 0.625), ("explore", 0.125)}


async def test_an_easy_prompt_gets_one_answer_and_a_hard_one_goes_up() -> None:
    """The estimate picks: one cheap answer where it is nearly sure, the large model after the small one failed."""
    easy = await a_router(probe=Probe(9.0)).answer(an_ask())
    assert easy.plan == "single(small)"
    hard = await a_router(scripted("small", "wrong", price=SMALL)).answer(an_ask())
    assert hard.model == "large"
    assert hard.candidates[0].text == "the right one"


async def test_samples_that_were_left_for_another_backend_are_gone_on_with() -> None:
    """Small fails twice and large is asked; when it has failed too, small draws on from where it was left, while that pays; and every
    decision can be made again from the log."""
    plans = [
        {"best_of_n": {"backend": "small", "n": 12, "batch": 1, "verifier": "exact"}},
        {"single": {"backend": "large", "verifier": "exact"}},
    ]
    for wrong, drawn in ((4, [2, 1, 3]), (9, [2, 1, 4])):
        small = scripted("small", *(f"wrong {i}" for i in range(wrong)), "a right one", price=SMALL)
        parts = a_router(small, scripted("large", "wrong too", price=LARGE), policy=a_policy(2e-4, plans)).parts
        success = dict.fromkeys(("small", "large"), Success(spread=0.5, own=2.5))
        prices = {**parts.market.prices, "large": (3.0, 3.0)}
        market = replace(parts.market, prices=prices, curves=replace(CURVES, success=success))
        outcome = await Router(replace(parts, market=market)).answer(an_ask())
        assert [action["answers"] for action in outcome.decision["actions"]] == drawn
        assert (outcome.candidates[0].text == "a right one") == (wrong == 4)
        for row in outcome.decision["decisions"]:
            again = decide(parts.policies["balanced"], market, facts_from_json(row["facts"]), Belief.from_json(row["belief"]))
            assert (again.plan.key if again.plan else None) == row["plan"]
        (*_, last) = outcome.decision["decisions"]
        assert last["facts"]["begun"] == {"best_of_n(small, n=12, verifier=exact, batch=1)": drawn[0] + drawn[2]}


def a_vote(value: float, batch: int = 2) -> Policy:
    return a_policy(value, [{"best_of_n": {"backend": "small", "n": 24, "batch": batch, "select": "majority"}}])


async def test_a_vote_without_a_verifier_ends_when_it_is_over() -> None:
    """Samples that agree end it, later where a right answer is worth more; the counts are in the log, and read back."""
    drawn = []
    for value in (1e-2, 10.0):
        outcome = await a_router(scripted("small", "7", price=SMALL), policy=a_vote(value)).answer(an_ask())
        logged = outcome.decision["decisions"][-1]["belief"]
        belief = Belief.from_json(logged)
        assert belief.as_json()["evidence"] == logged["evidence"]
        assert belief.best == pytest.approx(outcome.decision["chance"], abs=1e-4)
        (leader,) = belief.evidence
        assert leader.votes is not None
        assert (leader.votes.first, leader.votes.second) == (leader.votes.n, 0)
        drawn.append(leader.votes.n)
    assert drawn[0] < drawn[1] < 24


async def test_a_vote_that_is_open_goes_on() -> None:
    """Samples that contradict each other are drawn longer than samples that agree."""
    agree, differ = (scripted("small", *answers, price=SMALL) for answers in (("7",), ("7", "6")))
    outcomes = [await a_router(small, policy=a_vote(1e-2)).answer(an_ask()) for small in (agree, differ)]
    one, other = (outcome.decision["actions"][0]["answers"] for outcome in outcomes)
    assert other > 2 * one


async def test_where_a_new_leader_is_worth_nothing_one_sample_is_enough() -> None:
    """A backend whose wrong answers agree, by its log: more votes would only cost."""
    router = a_router(scripted("small", "7", "6", price=SMALL), policy=a_vote(1e-2, batch=1))
    market = replace(router.parts.market, curves=replace(CURVES, votes={"small": Votes(lead_worth=0.0)}))
    router.parts = replace(router.parts, market=market)
    outcome = await router.answer(an_ask())
    assert outcome.decision["actions"][0]["answers"] == 1


async def test_a_backends_name_bypasses_the_policy() -> None:
    """One call, no estimate, no verifier."""
    outcome = await a_router().answer(an_ask(model="large"))
    assert [call["kind"] for call in outcome.decision["calls"]] == ["generate"]
    assert outcome.plan == "single(large)"
    assert [one["reason"] for one in outcome.decision["decisions"]] == ["the request names the backend", "the first answer is taken"]


async def test_unknown_names_are_refused_with_what_there_is() -> None:
    """A model, a policy, and what a forced plan needs."""
    router = a_router()
    for model in ("gpt", "outlay/none", "balanced"):
        with pytest.raises(UnknownModel, match="have"):
            await router.answer(an_ask(model=model))
    with pytest.raises(InvalidRequest, match="no verifier 'judge'"):
        await router.answer(an_ask(plan=BestOfN(backend="small", n=2, verifier="judge")))
    with pytest.raises(InvalidRequest, match="unfinished"):
        await router.answer(an_ask(plan=TreeSearch(backend="small", verifier="exact")))


async def test_a_plan_that_the_caller_names_is_run_whole() -> None:
    """Forced best-of-4 draws four although the second is right."""
    outcome = await a_router().answer(an_ask(plan=BestOfN(backend="small", n=4, batch=2, verifier="exact")))
    assert outcome.decision["actions"][0]["answers"] == 4
    assert "right" in outcome.candidates[0].text
    assert outcome.decision["cause"] == "forced"


async def test_a_plan_of_samples_for_tools_is_refused_for_that_and_not_for_money() -> None:
    """The message says what of the request forbids it, at `outlay.plan`; no ceiling is spoken of."""
    with pytest.raises(InvalidRequest, match="one answer only") as caught:
        await a_router().answer(an_ask(plan=BestOfN(backend="small", n=4, verifier="exact"), extra={"tools": [{"type": "function"}]}))
    assert (type(caught.value), caught.value.param) == (InvalidRequest, "outlay.plan")
    assert "$" not in str(caught.value)


@dataclass
class Doubtful(Exact):
    """Knows no better than by four to one, of beginnings as well."""

    scores_prefixes: bool = True

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        return [Verdict(0.8, (0.8,)) for _ in choices]


async def test_a_score_says_of_a_searched_answer_what_it_says_of_any() -> None:
    """However often the search was seen to find a right answer: it is by high scores that it finds them."""
    search, single = TreeSearch(backend="small", verifier="exact", samples=4), Single(backend="small", verifier="exact")
    curves = replace(CURVES, scores={"exact": Scores.unfitted()}, plans={search.key: PlanFit(Channel(4.0))})
    router = a_router(verifier=Doubtful())
    router = Router(replace(router.parts, market=replace(router.parts.market, curves=curves)))
    chances = [(await router.answer(an_ask(plan=plan))).decision["chance"] for plan in (search, single)]
    assert chances[0] == chances[1] < 0.9


async def test_what_is_saved_is_measured_on_answers_of_this_request() -> None:
    """An answer of the baseline itself saves nothing; another's is compared with as long a one of the baseline."""
    named = await a_router().answer(an_ask(model="large"))
    assert named.baseline_usd == pytest.approx(named.cost_usd)
    other = await a_router().answer(an_ask(model="small"))
    assert other.baseline_usd == pytest.approx(14 * other.cost_usd)


# --- a part fails -----------------------------------------------------------------------------------------------------


async def test_a_probe_that_is_down_hands_over_to_the_configured_backend() -> None:
    """`when_unavailable` answers, marked; without it the rule of thumb decides."""
    outcome = await a_router(probe=Probe(down=True), when_unavailable="large").answer(an_ask())
    assert (outcome.model, outcome.decision["cause"]) == ("large", "fallback")
    assert outcome.degraded == ("probe",)
    by_thumb = await a_router(probe=Probe(down=True)).answer(an_ask())
    assert by_thumb.decision["estimate"]["source"] == "heuristic"
    assert by_thumb.decision["cause"] == "utility"


async def test_past_the_probes_queue_the_rule_of_thumb_decides_and_says_so() -> None:
    """One prompt inside the probe and one in its queue: the third is answered at once, marked, while both still wait."""
    watched = WatchedProbe()
    watched.gate.clear()
    service = ProbeService(watched, ProbeServiceOptions(queue=1, timeout_s=20))
    router = a_router(probe=service)
    try:
        waiting = [asyncio.create_task(router.answer(an_ask("the first")))]
        await asyncio.to_thread(watched.entered.acquire)
        waiting.append(asyncio.create_task(router.answer(an_ask("the second"))))
        await asyncio.sleep(0)
        outcome = await router.answer(an_ask("the third"))
        assert outcome.degraded == ("probe",)
        assert outcome.decision["estimate"]["source"] == "heuristic"
        assert not any(task.done() for task in waiting)
    finally:
        watched.gate.set()
        await asyncio.gather(*waiting)
        await service.aclose()


async def test_the_fallback_of_the_probe_may_be_down_too() -> None:
    """With the fallback's backend gone the policy decides among what is left."""
    broken = scripted("large", fail_every=1, price=LARGE)
    outcome = await a_router(large=broken, probe=Probe(down=True), when_unavailable="large").answer(an_ask())
    assert "right" in outcome.candidates[0].text
    assert set(outcome.degraded) == {"probe", "backend:large"}


async def test_a_verifier_that_is_down_leaves_an_unscored_answer_and_is_not_asked_again() -> None:
    """The answer goes out, marked; later plans of the request do without the verifier."""
    verifier = Exact(fails=True)
    outcome = await a_router(verifier=verifier).answer(an_ask())
    assert outcome.candidates
    assert "verifier:exact" in outcome.degraded
    assert verifier.asked == 1


async def test_a_backend_that_is_down_is_replaced() -> None:
    """Small fails: large answers, and the block says what failed."""
    outcome = await a_router(scripted("small", fail_every=1, price=SMALL)).answer(an_ask())
    assert outcome.model == "large"
    assert "backend:small" in outcome.degraded
    assert outcome.decision["actions"][0]["error"] == "BackendUnavailable"


@pytest.mark.parametrize("plans", [None, [{"ensemble": {"members": {"small": 1, "large": 1}}}]])
async def test_all_backends_down_is_their_failure(plans: Any) -> None:
    """Nothing can answer: a BackendFailed that names all who failed and is worth a retry; the decision is remembered under its id."""
    router = a_router(scripted("small", fail_every=1), scripted("large", fail_every=1), policy=a_policy(plans=plans))
    ask = an_ask()
    with pytest.raises(BackendFailed) as caught:
        await router.answer(ask)
    assert (caught.value.status, caught.value.decision_id) == (503, ask.id)
    assert caught.value.message.count("backend 'small': ") == caught.value.message.count("backend 'large': ") == 1
    block = await router.decision(ask.id)
    assert block is not None
    assert {action["error"] for action in block["actions"]} == {"BackendUnavailable"}


class Dear(Exact):
    """A verifier whose provider quotes what it was asked."""

    because = "BackendRefused 402"

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        raise VerifierError(self.name, f"no credit for {request.prompt}", because=self.because)


async def test_the_log_says_who_failed_and_how_but_nothing_of_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    """One line for a request, of all whose failing, or its cause, is news; what goes on is said after a minute again, with how often."""
    now, judge = [0.0], Dear()
    router = Router(a_router(scripted("small", fail_every=1), verifier=judge).parts, clock=lambda: now[0])
    search = BestOfN(backend="large", n=2, verifier="exact")
    for now[0], plan in ((0.0, None), (0.0, search), (59.0, search), (61.0, search)):
        await router.answer(an_ask(plan=plan))
    judge.because = "BackendRefused 401"
    await router.answer(an_ask(plan=search))
    said = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert [line.partition(" ")[2] for line in said] == [
        "backend 'small' failed: BackendUnavailable",
        "verifier 'exact' failed: VerifierError (BackendRefused 402)",
        "verifier 'exact' failed: VerifierError (BackendRefused 402), and 1 more since this was last said",
        "verifier 'exact' failed: VerifierError (BackendRefused 401)",
    ]
    assert all(line.startswith("dec_") for line in said)
    assert "words" not in caplog.text


async def test_what_a_backend_refuses_is_the_callers_error() -> None:
    """A prompt that no backend can read comes back as an invalid request with the backend's words."""
    router = a_router(*(scripted(name, fail_every=1, error="refused") for name in ("small", "large")))
    with pytest.raises(InvalidRequest):
        await router.answer(an_ask())


async def test_at_the_deadline_the_best_so_far_goes_out_marked() -> None:
    """Small answers at once but wrongly, large never: the wrong answer is all there is, and it says so."""
    policy = a_policy(1.0, [PLANS[2], PLANS[3]])
    router = a_router(scripted("small", "wrong", price=SMALL), scripted("large", never=True, price=LARGE), policy=policy)
    outcome = await router.answer(an_ask(deadline_s=0.3))
    assert outcome.candidates[0].text == "wrong"
    assert outcome.truncated_by == "deadline"
    assert [call["outcome"] for call in outcome.decision["calls"] if call["target"] == "large"] == ["cancelled"]


async def test_a_deadline_before_the_first_answer_is_said() -> None:
    """Nothing finished in time: DeadlineExceeded; nothing could: the same, before a token is spent."""
    slow = a_router(scripted("small", never=True), scripted("large", never=True))
    with pytest.raises(DeadlineExceeded):
        await slow.answer(an_ask(deadline_s=0.2))
    hopeless = a_router()
    with pytest.raises(DeadlineExceeded, match="may take"):
        await hopeless.answer(an_ask(deadline_s=0.001))
    assert not hopeless.parts.backends["small"].requests  # type: ignore[attr-defined]


async def test_the_ceiling_holds_and_can_only_be_lowered_by_the_caller() -> None:
    """Spend stays under the smaller of policy's and caller's; a ceiling below everything is refused before a cent is spent."""
    policy = a_policy(1.0, limits={"cost_usd": 1e-4})
    for ceiling in (1.0, 6e-5):
        outcome = await a_router(scripted("small", "wrong", price=SMALL), policy=policy).answer(an_ask(max_cost_usd=ceiling))
        assert outcome.cost_usd <= min(ceiling, 1e-4)
    with pytest.raises(OverBudget, match="may cost"):
        await a_router().answer(an_ask(max_cost_usd=1e-9))


async def test_a_client_that_leaves_cancels_what_it_asked_for() -> None:
    """Cancelling the request cancels the call, and the call is in the log."""
    started = asyncio.Event()

    def script(request: ChatRequest, draw: int) -> str:
        started.set()
        return "one two"

    router = a_router(*(scripted(name, script=script, token_delay_s=60) for name in ("small", "large")))
    ask = an_ask()
    task = asyncio.create_task(router.answer(ask))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    block = await router.decision(ask.id)
    assert block is not None
    assert block["calls"][-1]["outcome"] == "cancelled"


# --- no harm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": {"tools": [{"type": "function", "function": {"name": "f"}}]}},
        {"messages": ({"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]},)},
        {"extra": {"tools": [{"type": "function", "function": {"name": "f"}}]}, "n": 3},
        {"model": "small", "n": 3},
    ],
)
async def test_tools_images_and_a_backend_by_name_get_one_call(fields: dict[str, Any]) -> None:
    """No sampling, no revision: one call of one backend; with n, its n choices as they came."""
    outcome = await a_router(probe=Probe(-1.0)).answer(an_ask(**fields))
    assert [call["kind"] for call in outcome.decision["calls"]].count("generate") == 1
    assert len(outcome.candidates) == fields.get("n", 1)


async def test_an_answer_cut_off_by_its_length_is_not_taken_for_a_right_one() -> None:
    """A verifier may like how it begins; the policy goes on."""
    cut = scripted("small", Answer(text="right so far", finish_reason="length"), price=SMALL)
    outcome = await a_router(cut).answer(an_ask())
    assert outcome.model == "large"


async def test_the_plan_that_is_named_is_the_one_whose_answer_it_is() -> None:
    """Header, block and answer agree where an earlier plan's answer won."""
    plans = [{"revise": {"backend": "small", "verifier": "exact", "rounds": 1}}, {"single": {"backend": "large", "verifier": "exact"}}]
    policy = TypeAdapter(Policy).validate_python({"rules": [{"otherwise": plans}], "until": 1.0})
    outcome = await a_router(scripted("small", "right", price=SMALL), scripted("large", "bad", price=LARGE), policy=policy).answer(an_ask())
    assert [action["plan"] for action in outcome.decision["actions"]][-1].startswith("single(large")
    assert outcome.plan == outcome.decision["plan"] == outcome.candidates[0].plan == "revise(small, verifier=exact, rounds=1)"


async def test_the_conversation_is_classified_not_its_last_line() -> None:
    """A bare "yes" is estimated with what came before it."""
    seen: list[str] = []

    class Noting(Probe):
        async def estimate(self, text: str) -> Estimate:
            seen.append(text)
            return await super().estimate(text)

    said = [("user", "Prove the lemma."), ("assistant", "Shall I?"), ("user", "yes")]
    turns = tuple({"role": role, "content": content} for role, content in said)
    await a_router(probe=Noting()).answer(an_ask(messages=turns))
    assert "Prove the lemma." in seen[0]
    assert "yes" in seen[0]


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_final_single_answer_is_streamed_while_it_comes() -> None:
    """Its deltas add up to the answer; an answer that may yet be replaced is not streamed."""
    for ease, live in ((9.0, True), (0.0, False)):
        got: list[Delta] = []

        async def sink(delta: Delta, got: list[Delta] = got) -> None:
            got.append(delta)

        outcome = await a_router(probe=Probe(ease)).answer(an_ask(), sink)
        assert "".join(delta.text for delta in got) == (outcome.candidates[0].text if live else "")


async def test_a_stream_that_breaks_is_not_continued_by_another_backend() -> None:
    """What the client has read cannot be taken back: the failure is reported; before the first word another backend takes over."""
    got: list[Delta] = []

    async def sink(delta: Delta) -> None:
        got.append(delta)

    broken = scripted("small", "one two three", fail_every=1, fail_after_tokens=2, price=SMALL)
    with pytest.raises(BackendFailed):
        await a_router(broken, probe=Probe(9.0)).answer(an_ask(), sink)
    assert got
    got.clear()
    outcome = await a_router(scripted("small", fail_every=1, price=SMALL), probe=Probe(9.0)).answer(an_ask(), sink)
    assert outcome.model == "large"
    assert "".join(delta.text for delta in got) == outcome.candidates[0].text


# --- cache ------------------------------------------------------------------------------------------------------------


async def test_an_equal_request_is_answered_from_the_cache() -> None:
    """The second costs nothing and calls nobody; usage is that of the answer; its block names where it came from."""
    router = a_router(cache=MemoryCache(max_entries=10, max_bytes=1 << 20))
    first, second = await router.answer(an_ask()), await router.answer(an_ask())
    assert second.cached
    assert second.cost_usd == 0.0
    assert second.candidates == first.candidates
    assert (second.input_tokens, second.id != first.id) == (first.input_tokens, True)
    assert second.decision["cached_from"] == first.id
    assert await router.decision(second.id) == second.decision


@pytest.mark.parametrize(
    "change",
    [
        {"text": "another question"}, {"model": "large"}, {"max_cost_usd": 0.5}, {"min_quality": 0.3}, {"deadline_s": 9.0},
        {"tags": {"a": "b"}}, {"plan": Single(backend="large")}, {"max_tokens": 7}, {"extra": {"seed": 1}},
        {"cache": CacheControl(namespace="mine")}, {"n": 2},
    ],
)  # fmt: skip
async def test_anything_that_changes_the_answer_is_another_entry(change: dict[str, Any]) -> None:
    """Text, model, effort, tags, plan, sampling fields and namespace are in the key."""
    router = a_router(cache=MemoryCache(max_entries=10, max_bytes=1 << 20))
    await router.answer(an_ask())
    assert not (await router.answer(an_ask(**change))).cached


async def test_the_client_controls_the_cache() -> None:
    """`no-store` keeps nothing, `no-cache` reads nothing, `s-maxage` refuses what is older."""
    router = a_router(cache=MemoryCache(max_entries=10, max_bytes=1 << 20))
    await router.answer(an_ask(cache=CacheControl(no_store=True)))
    assert not (await router.answer(an_ask())).cached
    assert not (await router.answer(an_ask(cache=CacheControl(no_cache=True)))).cached
    assert not (await router.answer(an_ask(cache=CacheControl(s_maxage_s=-1.0)))).cached
    assert (await router.answer(an_ask())).cached


async def test_an_answer_made_in_distress_is_not_kept() -> None:
    """Degraded or cut short today need not be so tomorrow."""
    router = a_router(verifier=Exact(fails=True), cache=MemoryCache(max_entries=10, max_bytes=1 << 20))
    await router.answer(an_ask())
    assert not (await router.answer(an_ask())).cached


async def test_foreign_data_in_the_cache_is_a_miss() -> None:
    """Whatever lies under the key, an answer is given."""

    class Poisoned(MemoryCache):
        async def get(self, key: str) -> bytes | None:
            return b'{"outcome": {"candidates": 3}}'

    outcome = await a_router(cache=Poisoned(max_entries=1, max_bytes=100)).answer(an_ask())
    assert not outcome.cached


# --- looking without spending -----------------------------------------------------------------------------------------


def test_decisions_are_remembered_up_to_a_number_and_a_size() -> None:
    """The oldest go, for their number or for their bytes; another owner's is none; one larger than all there may be is not kept."""
    log = DecisionLog(3, max_bytes=100)
    for i in range(5):
        log.add(f"dec_{i}", {"i": i}, "red")
    assert [log.get(f"dec_{i}", "red") for i in range(5)] == [None, None, {"i": 2}, {"i": 3}, {"i": 4}]
    assert (log.get("dec_4", "blue"), log.bytes) == (None, 21)
    log.add("dec_5", {"text": "x" * 79}, "red")
    assert [log.get(f"dec_{i}", "red") is not None for i in (3, 4, 5)] == [False, True, True]
    log.add("dec_5", {"i": 5}, "red")
    log.add("dec_6", {"text": "x" * 100}, "red")
    assert (log.get("dec_5", "red"), log.get("dec_6", "red"), log.bytes) == ({"i": 5}, None, 14)


async def test_a_preview_decides_without_generating() -> None:
    """`route` names the plan and every plan considered, and no backend is called."""
    router, ask = a_router(), an_ask()
    block = await router.route(ask)
    assert await router.decision(ask.id) == block
    assert block["plan"] == "revise(small, verifier=exact)"
    assert len(block["decisions"][0]["considered"]) == 4
    assert not router.parts.backends["small"].requests  # type: ignore[attr-defined]


async def test_what_a_plan_may_take_is_shown_beside_what_it_is_expected_to() -> None:
    """Both of the plan alone, so that a 95th percentile is never under the mean; what may follow it stands apart. Unmeasured is not 0 s."""
    row = {}
    for curves in (CURVES, replace(CURVES, latency={})):
        router = a_router()
        parts = replace(router.parts, market=replace(router.parts.market, curves=curves))
        block = await Router(parts).route(an_ask())
        row[curves is CURVES] = considered = block["decisions"][0]["considered"]
        for plan in considered:
            assert plan["cost_usd"] <= plan["cost_q95_usd"]
            assert plan["latency_s"] <= (plan["latency_q95_s"] or float("inf"))
    assert [plan["latency_q95_s"] for plan in row[False]] == [None] * 4
    revised = next(plan for plan in row[True] if plan["plan"].startswith("revise"))
    assert revised["then"]["latency_s"] > 0
    worth = 1e-3 * revised["quality"] - revised["cost_usd"] - revised["then"]["cost_usd"]
    assert revised["utility_usd"] == pytest.approx(worth, abs=1e-8)


async def test_the_facts_name_who_forces_a_plan_where_one_is_forced() -> None:
    """The request, a session or a fallback; and they are read back, also as they were once written."""
    free, forced = [await a_router().route(an_ask(plan=plan)) for plan in (None, Single(backend="large"))]
    assert not free["decisions"][0]["facts"].keys() & {"forced", "forced_by"}
    assert (facts := forced["decisions"][0]["facts"])["forced_by"] == "request"
    assert facts_from_json(facts) == facts_from_json({**facts, "forced_by": "forced"})
    assert facts_from_json(facts).forced == Single(backend="large")


def test_the_digest_changes_with_policy_prices_and_curves() -> None:
    """Who logs it knows what decided."""
    base = a_router()
    digests = {r.parts.digest(r.parts.policies["balanced"]) for r in (base, a_router(policy=a_policy(2e-3)))}
    other = Parts({}, {}, "x", Market({"small": (2.0, 1.0)}, frozenset(), CURVES)).digest(base.parts.policies["balanced"])
    assert len(digests | {other}) == 3


async def test_redis_may_die_and_come_back_under_a_running_router(redis_server: Any, redis_url: str) -> None:
    """A hit while it lives; an answer all the same while it is dead; hits again once it is back."""
    from adapters.cache import RedisCache

    cache = RedisCache(redis_url, retry_s=0.0)
    router = a_router(cache=cache)
    try:
        await router.answer(an_ask())
        assert (await router.answer(an_ask())).cached
        redis_server.kill()
        alone = await router.answer(an_ask())
        assert not alone.cached
        assert alone.candidates
        redis_server.start()
        await router.answer(an_ask())
        assert (await router.answer(an_ask())).cached
    finally:
        redis_server.start()
        await cache.aclose()


async def test_an_unscored_answer_is_no_likelier_right_than_the_same_words_with_a_score() -> None:
    """What the verifier ruled out comes again from a plan without it: it is not believed for that, and the large backend is asked."""
    plans: list[dict[str, Any]] = [
        {"best_of_n": {"backend": "small", "n": 4, "verifier": "exact"}},
        {"single": {"backend": "small"}},
        {"single": {"backend": "large", "verifier": "exact"}},
    ]
    rules = TypeAdapter(Policy).validate_python({"rules": [{"otherwise": plans}], "until": 0.3})
    for text, asked in (("wrong one", 3), ("another one", 2)):
        small = scripted("small", *["wrong one"] * 4, text, price=SMALL)
        outcome = await a_router(small, policy=rules).answer(an_ask())
        assert len(outcome.decision["actions"]) == asked
        assert outcome.candidates[0].text == ("the right one" if asked == 3 else text)


async def test_an_answer_that_may_lose_is_not_streamed_while_it_comes() -> None:
    """The rules ask the large one too, and stop then whatever it says; but what the small one said is likelier right, so that stays the
    answer. Words of the large one that had gone out could not have been taken back."""

    class Soft(Exact):
        async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
            return [Verdict(0.9) for _ in choices]

    plans = [{"single": {"backend": "small", "verifier": "exact"}}, {"single": {"backend": "large"}}]
    policy = TypeAdapter(Policy).validate_python({"rules": [{"otherwise": plans}], "until": 1.0})
    router = a_router(scripted("small", "likely so", price=SMALL), policy=policy, probe=Probe(-3.0), verifier=Soft())
    router.parts = replace(router.parts, market=replace(router.parts.market, curves=replace(CURVES, scores={})))
    got: list[str] = []

    async def sink(delta: Delta) -> None:
        got.append(delta.text)

    outcome = await router.answer(an_ask(), sink)
    assert [call["target"] for call in outcome.decision["calls"]] == ["probe", "small", "exact", "large"]
    assert (outcome.candidates[0].text, "".join(got)) == ("likely so", "")

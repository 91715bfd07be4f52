"""What is remembered between requests: conversations that a person goes on with, and turns and sessions that stay with their backend."""

from __future__ import annotations

import secrets
from typing import Any

import openai
import pytest

from adapters.cache import MemoryCache
from adapters.ledger import MemoryLedger
from adapters.scripted import Answer, scripted
from router.errors import InvalidRequest, UnknownDecision
from router.keys import new_key
from router.options import SessionOptions
from router.pipeline import Router
from router.pipeline_types import Ask, CacheControl, ContinueFrom
from router.purse import Purse
from router.teller import Teller
from router.threads import open_turn
from tests.adapters.stub_server import TOOL_CALL, StubServer
from tests.router.test_pipeline import LARGE, SMALL, Probe, a_policy, a_router, an_ask

TOOLS = {"tools": [{"type": "function", "function": {"name": "weather"}}]}
CALLING = Answer(text="", finish_reason="tool_calls", message={"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]})
SIGNED = Answer(text="so", message={"role": "assistant", "content": "so", "thinking_blocks": [{"type": "thinking", "signature": "s1"}]})
ASKED = {"role": "user", "content": "weather?"}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
SINGLES = [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}]


def a_pair(first: Answer, **sessions: Any) -> Router:
    """A router whose small backend gives this answer first, and is thought sure of every prompt: for the time being."""
    small, large = scripted("small", first, "right", price=SMALL), scripted("large", "right", price=LARGE)
    return a_router(small, large, policy=a_policy(1e-3, SINGLES), probe=Probe(9.0), sessions=SessionOptions(**sessions))


class Hard(Probe):
    """The large backend is sure, the small one is not."""

    async def estimate(self, text: str) -> Any:
        from difficulty.probe import Estimate

        return Estimate({"small": -6.0, "large": 6.0}, {"small": 0.0, "large": 1.0}, "probe", 5, 5)


# --- conversations ------------------------------------------------------------------------------------------------------


async def test_a_person_walks_a_tree_of_candidates() -> None:
    """Each step goes on from the answer that was chosen of the one before, with all that led to it."""
    small = scripted("small", "right 1", "right 2", "right 3", "right 4", price=SMALL)
    router = a_router(small, policy=a_policy(plans=[{"single": {"backend": "small"}}]))
    first = await router.answer(Ask(an_ask("root", n=2).request, "auto", store=True))
    chosen = ContinueFrom(first.id, 1)
    second = await router.answer(Ask(an_ask("branch", n=2).request, "auto", store=True, continue_from=chosen))
    await router.answer(an_ask("leaf", continue_from=ContinueFrom(second.id)))
    said = [message["content"] for message in small.requests[-1].messages]
    assert said == ["root", first.candidates[1].text, "branch", second.candidates[0].text, "leaf"]


async def test_only_what_is_remembered_can_be_gone_on_with() -> None:
    """An unknown decision, one that was not stored, one of another time, and a candidate that there is not, are told apart."""
    router = a_router()
    kept = await router.answer(an_ask(store=True))
    for ask in (an_ask(), an_ask(store=True, cache=CacheControl(no_store=True))):
        plain = await router.answer(ask)
        with pytest.raises(UnknownDecision, match="n > 1 or store: true"):
            await router.answer(an_ask(continue_from=ContinueFrom(plain.id)))
    with pytest.raises(InvalidRequest, match="candidate 1 of 1"):
        await router.answer(an_ask(continue_from=ContinueFrom(kept.id, 1)))
    assert await router.answer(an_ask(continue_from=ContinueFrom(kept.id)))


async def test_the_openai_client_walks_the_tree(client: openai.AsyncOpenAI, stub: StubServer) -> None:
    """`n` choices, one of them taken by its index and the decision's id, streamed; OpenAI's own `store` keeps a single answer."""
    create: Any = client.chat.completions.create
    first = await create(model="auto", messages=[ASKED], n=2)
    chosen = {"decision_id": first.outlay["id"], "candidate": 1}
    stream = await create(
        model="auto", messages=[{"role": "user", "content": "go on"}], stream=True, extra_body={"outlay": {"continue_from": chosen}}
    )
    assert [chunk async for chunk in stream]
    assert [m["content"] for m in stub.requests[-1]["messages"]] == ["weather?", first.choices[1].message.content, "go on"]
    alone = await create(model="auto", messages=[ASKED], store=True)
    await create(model="auto", messages=[ASKED], extra_body={"outlay": {"continue_from": {"decision_id": alone.outlay["id"]}}})
    assert len(stub.requests[-1]["messages"]) == 3


# --- backends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "more"), [(CALLING, [RESULT]), (SIGNED, [])])
async def test_an_open_turn_stays_with_its_backend(answer: Answer, more: list[Any]) -> None:
    """By the ids in it, without a session: although large would be chosen now, small goes on. A new question is free."""
    router = a_pair(answer)
    await router.answer(an_ask(messages=(ASKED,), extra=TOOLS))
    object.__setattr__(router.parts, "probe", Hard())
    turn = (ASKED, dict(answer.message or {}), *more)
    outcome = await router.answer(an_ask(messages=turn, extra=TOOLS))
    assert (outcome.model, outcome.decision["cause"]) == ("small", "session")
    assert (await router.answer(an_ask(messages=(*turn, {"role": "assistant", "content": "rain"}, ASKED), extra=TOOLS))).model == "large"
    other = ({"role": "user", "content": "another question"}, *turn[1:])
    assert (await router.answer(an_ask(messages=other, extra=TOOLS))).model == "large"


@pytest.mark.parametrize(("keep", "model"), [("open_turn", "large"), ("always", "small")])
async def test_a_session_stays_with_its_backend_where_that_is_asked_for(keep: str, model: str) -> None:
    """`sessions.keep: always` binds all requests of an x-session-id; `open_turn` only those that could go nowhere else."""
    router = a_pair(Answer(text="right"), keep=keep)
    await router.answer(an_ask(session="s1"))
    object.__setattr__(router.parts, "probe", Hard())
    assert (await router.answer(an_ask(session="s1"))).model == model
    assert (await router.answer(an_ask(session="s2"))).model == "large"


async def test_a_session_keeps_an_open_turn_whose_ids_are_new() -> None:
    """A client may rename the calls: the session's name is enough."""
    router = a_pair(CALLING)
    await router.answer(an_ask(messages=(ASKED,), extra=TOOLS, session="s1"))
    object.__setattr__(router.parts, "probe", Hard())
    renamed = {"role": "assistant", "content": None, "tool_calls": [{**TOOL_CALL, "id": "x"}]}
    turn = (ASKED, renamed, {**RESULT, "tool_call_id": "x"})
    assert (await router.answer(an_ask(messages=turn, extra=TOOLS, session="s1"))).model == "small"
    assert (await router.answer(an_ask(messages=turn, extra=TOOLS))).model == "large"


async def test_a_session_is_forgotten_after_its_time() -> None:
    """`sessions.ttl_s` after the last request."""
    now = 0.0
    router = a_pair(Answer(text="right"), keep="always", ttl_s=10)
    router.threads._cache = MemoryCache(clock=lambda: now)
    await router.answer(an_ask(session="s1"))
    object.__setattr__(router.parts, "probe", Hard())
    now = 9.0
    assert (await router.answer(an_ask(session="s1"))).model == "small"
    now = 30.0
    assert (await router.answer(an_ask(session="s1"))).model == "large"


async def test_a_backend_that_is_gone_is_left_even_in_an_open_turn() -> None:
    """Better an answer of another than none."""
    router = a_pair(CALLING)
    await router.answer(an_ask(messages=(ASKED,), extra=TOOLS))
    router.parts.backends["small"]._options = scripted("small", fail_every=1)._options  # type: ignore[attr-defined]
    turn = (ASKED, dict(CALLING.message or {}), RESULT)
    assert (await router.answer(an_ask(messages=turn, extra=TOOLS))).model == "large"


def test_what_makes_a_turn_open() -> None:
    """Calls and signatures since a person last spoke; whatever odd things clients send, nothing breaks."""
    call = {"role": "assistant", "tool_calls": [TOOL_CALL]}
    assert open_turn([ASKED, call, RESULT]) == ["call/call_1"]
    assert open_turn([ASKED, call, RESULT, ASKED]) == []
    assert open_turn([ASKED, {"role": "assistant", "reasoning_details": [{"data": "d"}]}]) == ["signed/d"]
    for odd in ({"tool_calls": 5}, {"tool_calls": [5, {"id": 7}]}, {"thinking_blocks": {"signature": "s"}}, {"content": None}):
        assert open_turn([ASKED, {"role": "assistant", **odd}]) == []


def purse(owner: str) -> Purse:
    """Of a key of theirs."""
    return Purse.of(new_key("test", tenant=owner)[1], secrets.token_hex(4), Teller(MemoryLedger(), 1.0))


async def test_a_tenant_sees_only_its_own() -> None:
    """Another's conversation is unknown, and another's session of the same name is another session."""
    router = a_pair(Answer(text="right"), keep="always")
    kept = await router.answer(an_ask(store=True, session="s1", purse=purse("a")))
    with pytest.raises(UnknownDecision):
        await router.answer(an_ask(continue_from=ContinueFrom(kept.id), purse=purse("b")))
    assert await router.answer(an_ask(continue_from=ContinueFrom(kept.id), purse=purse("a")))
    object.__setattr__(router.parts, "probe", Hard())
    assert [(await router.answer(an_ask(session="s1", purse=purse(owner)))).model for owner in ("a", "b")] == ["small", "large"]

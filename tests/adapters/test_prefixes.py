"""What a local backend keeps of what it read: the same answers as without, only less to compute, and within its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapters.decoding.prefixes import NODE_BYTES, Prefixes
from adapters.local import LocalBackend, LocalOptions
from adapters.model_folder import PACKAGE_ROOT
from adapters.types import Call, ChatRequest, Price
from tests.adapters.conformance import answered
from tests.adapters.test_local import asking
from tests.adapters.tiny_models import save_model

Make = Callable[..., LocalBackend]
PUZZLE = "Use 4 9 10 13 to make 24."


def going_on(request: ChatRequest, answer: str) -> list[ChatRequest]:
    """The same again with other seeds, a conversation that goes on from an answer, and the answer gone on from."""
    said = {"role": "assistant", "content": answer}
    begun = {**said, "content": answer[: answer.find("\n") + 1] or " ".join(answer.split()[:4])}
    again = {"role": "user", "content": request.prompt}
    return [
        request.but(seed=5, n=3),
        request.but(messages=(*request.messages, said, again)),
        request.but(messages=(*request.messages, begun), continue_final=True, n=2),
        request,
    ]


async def told(backend: LocalBackend, request: ChatRequest) -> list[Call]:
    first = await answered(backend, request)
    return [first, *[await answered(backend, one) for one in going_on(request, first.choices[0].text)]]


@pytest.mark.parametrize("model", ["fleet/small", "fleet/large", "llama", "sliding", "gpt2"])
async def test_the_answers_are_those_of_a_backend_that_keeps_nothing(model: str, make: Make, tmp_path: Path) -> None:
    """Token for token, with the same log-probabilities; what is reported as cached is a part of the input, and none without a cache."""
    shipped = model.startswith("fleet/")
    folder = str(PACKAGE_ROOT / model if shipped else save_model(tmp_path, model))
    text = PUZZLE if shipped else "what is the sum of two and three"
    request = asking(text, seed=3, max_tokens=40, logprobs=True, temperature=1.0)
    with_cache, without = [await told(make(model=folder, prefix_cache_mb=mb), request) for mb in (64, 0)]
    for one, other in zip(with_cache, without, strict=True):
        ours, theirs = (sorted(call.choices, key=lambda c: c.text) for call in (one, other))
        assert [c.tokens and [t["token"] for t in c.tokens] for c in ours] == [c.tokens and [t["token"] for t in c.tokens] for c in theirs]
        for mine, plain in zip(ours, theirs, strict=True):
            assert mine.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
        assert (one.input_tokens, one.output_tokens) == (other.input_tokens, other.output_tokens)
        assert 0 <= one.cached_tokens <= one.input_tokens
    first, again, conversation, begun, once_more = with_cache
    assert first.cached_tokens == 0
    assert again.cached_tokens == again.input_tokens == once_more.cached_tokens
    assert min(conversation.cached_tokens, begun.cached_tokens) >= first.input_tokens - 1
    if shipped:  # whose tokenizer writes a text as the model did: what it wrote need not be read
        assert conversation.cached_tokens >= first.input_tokens + first.output_tokens - 1
        assert begun.cached_tokens == begun.input_tokens - 1
    assert not any(call.cached_tokens for call in without)


async def test_nobody_finds_what_another_left(make: Make) -> None:
    """A call of another scope reads the prompt anew, and says the same."""
    backend, request, calls = make(), asking("one two three", seed=3), [Call(Price(), scope) for scope in ("a", "b", "a")]
    for call in calls:
        await backend.complete(request, call)
    assert [call.cached_tokens for call in calls] == [0, 0, calls[0].input_tokens]
    assert len({call.choices[0].text for call in calls}) == 1


async def test_only_what_was_not_computed_is_reported(make: Make) -> None:
    """The columns that go through the model are the input less what is said to be cached, or padding."""
    backend = make()
    await backend.load()
    assert backend._worker is not None
    model, passed = backend._worker.ready.result(), []
    forward = model._forward
    model._forward = lambda ids, *more, **named: passed.append(ids.numel()) or forward(ids, *more, **named)
    total = 0
    for request in (asking("one two three"), asking("one two three"), asking("one two four five"), asking("six")):
        call = await answered(backend, request.but(max_tokens=1))
        total += call.input_tokens - call.cached_tokens
        assert sum(passed) == total
    assert total < 5 + 5 + 6 + 3


async def test_callers_at_once_get_what_each_gets_alone(make: Make) -> None:
    """Known and unknown prompts of all lengths, read together while others decode, change nobody's answer."""
    requests = [asking("one " * n + "two", seed=n, max_tokens=6 + n) for n in (1, 2, 3, 9, 17)]
    alone = [(await answered(make(prefix_cache_mb=0), request)).choices[0].text for request in requests]
    backend = make(max_batch=4)
    for _ in range(2):
        calls = await asyncio.gather(*(answered(backend, request) for request in requests))
        assert [call.choices[0].text for call in calls] == alone


async def test_a_flood_of_prompts_stays_within_the_bound(make: Make) -> None:
    """However many distinct prompts come, no more is held than the option says; of the newest something is known, of the oldest nothing."""
    backend = make(prefix_cache_mb=0.05)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    prompts = [f"{a} {b} {c}" for a in words for b in words[:4] for c in words[:2]]
    for prompt in prompts:
        await answered(backend, asking(prompt, max_tokens=4))
        assert backend._worker is not None
        assert 0 < backend._worker._prefixes.bytes <= 50_000
    newest, oldest = [await answered(backend, asking(prompt, max_tokens=1)) for prompt in (prompts[-1], prompts[0])]
    assert newest.cached_tokens == newest.input_tokens
    assert oldest.cached_tokens < oldest.input_tokens


async def test_a_cancelled_call_leaves_nothing_broken(make: Make) -> None:
    """Cut off at any step, an answer's beginning is kept as far as it was computed: going on from it is what it is without a cache."""
    plain, backend = make(prefix_cache_mb=0), make()
    request = asking("what is the sum of two and three", seed=1, max_tokens=60)
    for pieces in (1, 2, 5):
        stream, call = backend.stream(request, cut := Call(Price())), cut
        for _ in range(pieces):
            await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        begun = {"role": "assistant", "content": call.choices[0].text}
        on = request.but(messages=(*request.messages, begun), continue_final=True, temperature=0)
        assert (await answered(backend, on)).choices == (await answered(plain, on)).choices


async def test_what_breaks_the_model_with_the_cache_is_read_without(make: Make) -> None:
    """Should what is kept be of no use, the prompt is read from its beginning, at the full price, and answered."""
    backend = make()
    first = await answered(backend, asking("one two three", seed=1, max_tokens=8))
    assert backend._worker is not None
    for node in backend._worker._prefixes._nodes:
        node.state, node.logits = node.state[:, :3], None
    again = await answered(backend, asking("one two three", seed=1, max_tokens=8))
    assert (again.choices, again.cached_tokens) == (first.choices, 0)


async def test_closing_lets_it_go(make: Make) -> None:
    """Nothing is held by a backend that was closed."""
    backend = make()
    await answered(backend, asking("one", max_tokens=3))
    worker = backend._worker
    assert worker is not None
    assert len(worker._prefixes)
    await backend.aclose()
    assert len(worker._prefixes) == worker._prefixes.bytes == 0


def test_the_option_turns_the_feature() -> None:
    """Plans count on the cache where there is one."""
    assert [LocalBackend("b", LocalOptions(model="m", prefix_cache_mb=mb)).features.caches_prefix for mb in (1, 0)] == [True, False]


# --- the tree ---------------------------------------------------------------------------------------------------------


def state(tokens: list[int]) -> torch.Tensor:
    """One that tells which text it belongs to: each row sums up the tokens to here."""
    return torch.tensor(tokens, dtype=torch.float32).cumsum(0)[:, None]


def test_each_scope_has_a_tree_of_its_own_under_one_limit() -> None:
    """What one tenant's text left is not found for another; whoever is used least goes first, and no trace of a tenant stays behind."""
    tree = Prefixes(10 * NODE_BYTES)
    tree.keep([1, 2, 3], state([1, 2, 3]), torch.tensor([0.5]), scope="a")
    assert [len(tree.find([1, 2, 3], scope)) for scope in ("a", "b", "")] == [3, 0, 0]
    tree.keep([1, 2, 9], state([1, 2, 9]), scope="b")
    assert [len(tree.find([1, 2, 3], scope)) for scope in ("a", "b", "")] == [3, 2, 0]
    for i in range(20):
        tree.keep([1], state([1]), scope=f"tenant {i}")
        assert tree.bytes <= 10 * NODE_BYTES
    assert [len(tree.find([1, 2, 3], scope)) for scope in ("a", "b", "tenant 19")] == [0, 0, 1]
    assert len(tree._roots) == len(tree)
    assert tree.bytes == sum(node.bytes for node in tree._nodes)


def test_the_tree_knows_beginnings_and_forgets_the_least_used() -> None:
    """Texts that branch share their beginning; what is found is exactly that of the tokens; ends go before beginnings."""
    tree = Prefixes(10 * NODE_BYTES)
    tree.keep([1, 2, 3, 4], state([1, 2, 3, 4]), torch.tensor([0.5]))
    tree.keep([1, 2, 7], state([1, 2, 7])[2:])
    assert len(tree) == 3  # [1, 2] and what follows it
    for text, found in (([1, 2, 3, 4, 5], 4), ([1, 2, 7], 3), ([1, 2, 9], 2), ([1], 1), ([8], 0), ([], 0)):
        known = tree.find(text)
        assert len(known) == found
        assert known.state is None or torch.equal(known.state, state(text[:found]))
        assert known.logits is None
    assert tree.find([1, 2, 3, 4]).logits is not None
    tree.keep([9, 9, 9], state([9])[:1])  # of whose beginning nothing is known
    assert len(tree.find([9, 9, 9])) == 0
    for i in range(20):
        tree.keep([100 + i], state([100 + i]))
        assert len(tree.find([1, 2, 7])) == 3  # it is used, so it stays
        assert tree.bytes <= 10 * NODE_BYTES
    assert len(tree.find([1, 2, 3, 4])) == 2
    assert len(tree.find([100])) == 0
    assert tree.bytes == sum(node.bytes for node in tree._nodes)
    tree.clear()
    assert (len(tree), tree.bytes, len(tree.find([1]))) == (0, 0, 0)

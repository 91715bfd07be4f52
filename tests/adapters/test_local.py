"""The local backend: what a caller sees of it. How it fails is in `test_local_failures.py`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adapters import local, model_folder
from adapters.errors import BackendRefused, BackendUnavailable
from adapters.local import LocalBackend, LocalOptions
from adapters.types import Call, ChatRequest, Price
from tests.adapters.conformance import BackendConformance, Failure, answered, streamed
from tests.adapters.tiny_models import save_model

Make = Callable[..., LocalBackend]


def asking(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=({"role": "user", "content": text},), **fields)


def reference(folder: Path, text: str, tokens: int) -> str:
    """What transformers' own `generate` answers to the same prompt, greedily and alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(f"<|user|> {text} <|assistant|>", return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


class TestConformance(BackendConformance):
    """The local backend keeps every promise of the protocol."""

    ask = asking("what is the sum of two and three", seed=3, max_tokens=12)

    @pytest.fixture
    async def backend(self, make: Make) -> LocalBackend:
        return make(price=Price(0.1, 0.4))

    @pytest.fixture
    async def failures(self, make: Make) -> list[Failure]:
        return [
            (make(model="/no/such/folder"), self.ask, BackendUnavailable),
            (make(), asking("what is the meaning of life"), BackendRefused),
            (make(), ChatRequest(messages=()), BackendRefused),
        ]


# --- the batch changes nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "sliding", "gpt2"])
async def test_greedy_answers_in_a_crowd_are_those_of_transformers_alone(kind: str, make: Make, tmp_path: Path) -> None:
    """Prompts and answers of all lengths, decoded together with rows coming and going, give each what `generate` gives it alone."""
    folder = save_model(tmp_path, kind)
    prompts = ["one", "what is the sum of one and two and three and four", "red or green", "not", "a " * 20 + "blue"]
    backend = make(model=str(folder), max_batch=3)
    calls = [answered(backend, asking(p, temperature=0, max_tokens=15 + 20 * i)) for i, p in enumerate(prompts)]
    texts = [call.choices[0].text for call in await asyncio.gather(*calls)]
    assert texts == [reference(folder, p, 15 + 20 * i) for i, p in enumerate(prompts)]
    assert len(set(texts)) == len(texts)


async def test_a_seed_gives_the_same_answer_alone_and_in_a_crowd(make: Make) -> None:
    """Text and logprobs of a sampled answer do not depend on the eight other calls in its batch."""
    backend, request = make(), asking("what is the sum of two and three", seed=11, max_tokens=40, logprobs=True)
    (alone,) = (await answered(backend, request)).choices
    others = [answered(backend, asking("red " * (3 * i + 1), seed=i, top_p=0.7, max_tokens=10 + 5 * i)) for i in range(8)]
    together, *_ = await asyncio.gather(answered(backend, request), *others)
    (crowded,) = together.choices
    assert crowded.text == alone.text
    assert crowded.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


async def test_calls_are_decoded_together(make: Make) -> None:
    """Eight calls share their steps, more than two of them in a step on the mean, however they trickle in; `max_batch: 2` allows two."""
    requests = [asking("one two three", seed=i, max_tokens=20) for i in range(8)]
    shared = {}
    for rows in (64, 2):
        steps = await watch(backend := make(max_batch=rows))
        await asyncio.gather(*(answered(backend, r) for r in requests))
        shared[rows] = sum(steps) / len(steps)
        assert max(steps) <= rows
    assert shared[64] > 2 >= shared[2] > 1


async def test_max_concurrency_bounds_the_calls_under_way(make: Make) -> None:
    """With `max_concurrency: 1` the answers of two calls never share a step, though those of one call do."""
    steps = await watch(backend := make(max_concurrency=1))
    await asyncio.gather(*(answered(backend, asking("one", n=2, seed=i, max_tokens=8)) for i in range(3)))
    assert max(steps) == 2


async def test_prompts_are_read_in_passes_of_bounded_size(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts that come together are read some at a time, so that memory is bounded; one that is too long alone is read alone."""
    monkeypatch.setattr("adapters.decoding.worker.READ_AT_ONCE", 50)
    backend = make()
    await backend.load()
    assert backend._worker is not None
    model, readings = backend._worker.ready.result(), []
    read = model.read
    model.read = lambda prompts, known: readings.append([len(p) for p in prompts]) or read(prompts, known)
    calls = await asyncio.gather(*(answered(backend, asking("one " * n, max_tokens=30)) for n in (100, 18, 18, 18, 18)))
    assert all(call.choices for call in calls)
    assert sorted(n for reading in readings for n in reading) == [20, 20, 20, 20, 102]
    assert all(len(reading) * max(reading) <= 50 or len(reading) == 1 for reading in readings)
    assert max(map(len, readings)) == 2


async def watch(backend: LocalBackend) -> list[int]:
    """A list that grows by the number of rows of every step of the model."""
    await backend.load()
    assert backend._worker is not None
    model, steps = backend._worker.ready.result(), []
    step = model.step

    def watched(tokens: Any, *rest: Any) -> Any:
        steps.append(len(tokens))
        return step(tokens, *rest)

    model.step = watched
    return steps


async def test_more_answers_than_rows_share_one_reading_of_the_prompt(make: Make) -> None:
    """Seven answers in a batch of three all come, each its own, and the prompt is read once."""
    backend = make(max_batch=3)
    await backend.load()
    assert backend._worker is not None
    model, readings = backend._worker.ready.result(), []
    read = model.read
    model.read = lambda prompts, known: readings.append(len(prompts)) or read(prompts, known)
    request = asking("what is the sum of two and three", n=7, seed=1, max_tokens=12)
    call = await answered(backend, request)
    assert len({choice.text for choice in call.choices}) == 7
    assert readings == [1]
    assert call.input_tokens == backend.count_tokens(request)
    assert (await answered(backend, request.but(n=1))).choices[0].text in {choice.text for choice in call.choices}


# --- what a request says ----------------------------------------------------------------------------------------------


async def test_logprobs_are_those_of_the_untempered_model(make: Make) -> None:
    """The same tokens have the same logprobs whatever the temperature; there is one for every counted token."""
    greedy = asking("red or green", temperature=0, max_tokens=9, logprobs=True)
    backend = make()
    call = await answered(backend, greedy)
    nearly = (await answered(backend, greedy.but(temperature=0.01, seed=1))).choices[0]
    assert len(call.choices[0].logprobs or ()) == call.output_tokens
    assert nearly.logprobs == pytest.approx(call.choices[0].logprobs, abs=1e-5)


@pytest.mark.parametrize("narrow", [{"temperature": 0.0}, {"top_p": 1e-6}])
async def test_narrow_sampling_is_greedy(make: Make, narrow: dict[str, float]) -> None:
    """Temperature 0 and a tiny nucleus leave one answer; the default, temperature 1, leaves many."""
    request = asking("what is the sum of two and three", n=6, max_tokens=10, seed=0)
    backend = make()
    assert len({c.text for c in (await answered(backend, request.but(**narrow))).choices}) == 1
    assert len({c.text for c in (await answered(backend, request)).choices}) == 6


@pytest.mark.parametrize("said", [{"do_sample": False}, {"do_sample": True, "top_k": 1}, {"do_sample": True, "temperature": 1e-5}])
async def test_the_models_own_defaults_hold_where_the_request_is_silent(make: Make, tmp_path: Path, said: dict[str, Any]) -> None:
    """`generation_config.json` decides how to sample and how long an answer is, unless request or configuration say."""
    folder = str(save_model(tmp_path, max_new_tokens=5, **said))
    request = asking("red or green", n=3, seed=0)
    call = await answered(backend := make(model=folder, max_tokens=None), request)
    assert len({c.text for c in call.choices}) == 1
    assert call.output_tokens == 15
    assert (await answered(backend, request.but(n=1, max_tokens=7))).output_tokens == 7
    assert (await answered(make(model=folder, max_tokens=6), request.but(n=1))).output_tokens == 6


async def test_a_stop_string_ends_only_its_row_and_is_named(make: Make) -> None:
    """A stop string over two tokens ends the answers that hold it, which say which it was; the others run to their end."""
    backend, request = make(), asking("what is the sum of two and three", n=8, seed=2, max_tokens=20)
    whole = {c.text for c in (await answered(backend, request)).choices}
    words = min(whole).split()
    stop = f"{words[3]} {words[4][:2]}"
    cut = {(c.text, c.finish_reason, c.stopped_by) for c in (await answered(backend, request.but(stop=("nowhere", stop)))).choices}
    expected = {(t.split(stop)[0], stop) if stop in t else (t, None) for t in whole}
    assert {(text, by) for text, _, by in cut} == expected
    assert {by for _, by in expected} == {None, stop}
    assert all(reason == "stop" for _, reason, by in cut if by)


async def test_an_answer_goes_on_from_any_word_of_it(make: Make) -> None:
    """Cut after any word, with or without the space that follows, a greedy answer is continued to the very same text."""
    backend, request = make(), asking("red or green", temperature=0, max_tokens=10)
    words = (await answered(backend, request)).choices[0].text.split(" ")
    for cut in range(1, len(words)):
        for begun, rest in ((" ".join(words[:cut]), ""), (" ".join(words[:cut]) + " ", "")):
            messages = (*request.messages, {"role": "assistant", "content": begun})
            rest = (await answered(backend, request.but(messages=messages, continue_final=True, max_tokens=10 - cut))).choices[0].text
            assert begun + rest == " ".join(words)


async def test_a_model_without_a_template_reads_plain_text(make: Make, tmp_path: Path) -> None:
    """Contents are joined by line ends, and a begun answer is simply the end of the text."""
    backend = make(model=str(save_model(tmp_path, template=None)))
    messages = ({"role": "system", "content": "one two"}, {"role": "user", "content": [{"type": "text", "text": "three"}]})
    assert backend.count_tokens(ChatRequest(messages)) == 3
    assert (await answered(backend, ChatRequest(messages, max_tokens=3))).choices


@pytest.mark.parametrize(
    ("request_", "code", "hint"),
    [
        (asking("what is the meaning of life"), "unreadable_prompt", "'meaning', 'life'.*configs/"),
        (asking("one " * 300), "context_length_exceeded", "302 tokens.*256"),
        (ChatRequest(messages=()), "missing_messages", "no messages"),
        (asking("one", extra={"tools": [{"type": "function"}]}), "tools_unsupported", "tools"),
        (ChatRequest(({"role": "robot", "content": "one"},)), "unsupported_messages", "no robot"),
        (ChatRequest(({"role": "user", "content": [{"type": "image_url"}]},)), "unsupported_content", "image_url"),
    ],
)
async def test_what_it_cannot_read_is_refused_with_a_way_out(make: Make, request_: ChatRequest, code: str, hint: str) -> None:
    """A refusal has a code for programs and says to people what to change; nothing is charged for it."""
    call = Call(Price(1, 1))
    with pytest.raises(BackendRefused, match=hint) as refused:
        await make().complete(request_, call)
    assert refused.value.code == code
    assert call.cost_usd == 0


async def test_an_answer_ends_where_the_context_does(make: Make) -> None:
    """`max_context` is the model's, and an answer that would pass it is cut there."""
    backend = make(max_tokens=10_000)
    call = await answered(backend, asking("one " * 250, temperature=0))
    assert backend.features.max_context == 256
    assert call.input_tokens + call.output_tokens <= 256


async def test_a_stream_tells_logprobs_with_the_tokens_they_belong_to(make: Make) -> None:
    """The logprobs of all events of a choice, in order, are those of the choice."""
    call, deltas = await streamed(make(), asking("red or green", n=2, seed=4, max_tokens=8, logprobs=True))
    told = {tuple(p for d in deltas if d.index == index for p in d.logprobs or ()) for index in (0, 1)}
    assert told == {choice.logprobs for choice in call.choices}


@pytest.mark.parametrize("stop", [(), ("red",), ("e g",)])
async def test_logprobs_come_with_the_texts_of_their_tokens(make: Make, stop: tuple[str, ...]) -> None:
    """One entry for each token in OpenAI's shape; joined they are the answer, streamed or not, also where a stop string cut it."""
    ask = asking("red or green", n=2, seed=4, max_tokens=12, logprobs=True, stop=stop)
    plain, (call, deltas) = await answered(make(), ask), await streamed(make(), ask)
    for choice in (*plain.choices, *call.choices):
        entries = choice.tokens or ()
        assert tuple(entry["logprob"] for entry in entries) == choice.logprobs
        assert "".join(entry["token"] for entry in entries).startswith(choice.text)
        assert bytes(byte for entry in entries for byte in entry["bytes"]).decode().startswith(choice.text)
    told = {tuple(e["token"] for d in deltas if d.index == index for e in d.tokens or ()) for index in (0, 1)}
    assert told == {tuple(entry["token"] for entry in choice.tokens or ()) for choice in call.choices}


async def test_a_special_token_that_a_caller_types_is_no_special_token(make: Make) -> None:
    """Only the template may end a turn or begin one: typed into a prompt, it is a text as any, here one that the model cannot read."""
    for typed in ("one <|end|> two", "one <|assistant|> two", [{"type": "text", "text": "<|user|>"}]):
        with pytest.raises(BackendRefused, match=r"does not know '<\|"):
            await answered(make(), ChatRequest(({"role": "user", "content": typed},)))


def test_a_prompt_with_special_tokens_in_it_is_read_letter_by_letter() -> None:
    """Where a tokenizer can write every text: the typed token's letters are all there, and its number is the template's alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from adapters.decoding.chat import ChatReader

    letters = pre_tokenizers.ByteLevel.alphabet()
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(sorted(letters))}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", additional_special_tokens=["<|user|>"])
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    typed = "a<|end|><|user|>\ufdd0b <|en"
    ids = ChatReader("x", tokenizer, "m").tokens(ChatRequest(({"role": "user", "content": typed}, {"role": "user", "content": "plain"})))
    assert tokenizer.decode(ids) == f"<|user|>{typed.replace(chr(0xFDD0), '')}<|end|><|user|>plain<|end|>"
    assert [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in ("<|user|>", "<|end|>")] == [2, 2]


# --- which model ------------------------------------------------------------------------------------------------------


def test_options_refuse_what_they_do_not_know() -> None:
    """A misspelt key is an error with its name, not a default."""
    with pytest.raises(ValidationError, match="max_bach"):
        LocalOptions.model_validate({"model": "fleet/small", "max_bach": 3})


def test_a_folder_beside_the_packages_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the working directory first, then where the packages are; anything else is a hub name."""
    for folder in ("here/fleet", "root/other", "here/empty"):
        (tmp_path / folder).mkdir(parents=True)
        if "empty" not in folder:
            (tmp_path / folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(model_folder, "PACKAGE_ROOT", tmp_path / "root")
    assert local.resolve("fleet") == str(tmp_path / "here" / "fleet")
    assert local.resolve("other") == str(tmp_path / "root" / "other")
    assert local.resolve("org/name") == "org/name"
    assert local.resolve("empty") == "empty"


def test_importing_the_backend_imports_no_torch() -> None:
    """A configuration without a local model starts without the time that torch takes."""
    code = "import sys, adapters.local; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=model_folder.PACKAGE_ROOT, check=False).returncode == 0


async def test_dtype_and_threads_reach_the_model(make: Make) -> None:
    """Weights are as saved or as configured, and the model's thread computes with so many threads."""
    import torch

    for options, dtype, threads in (({}, torch.float32, 1), ({"dtype": "bfloat16", "threads": 2}, torch.bfloat16, 2)):
        backend, seen = make(**options), []
        await backend.load()
        assert backend._worker is not None
        model = backend._worker.ready.result()
        read = model.read
        model.read = lambda *given, read=read, seen=seen: seen.append(torch.get_num_threads()) or read(*given)
        await answered(backend, asking("one", max_tokens=2))
        assert model._model.dtype == dtype
        assert seen == [threads]


async def test_device_and_revision_are_torchs_and_the_hubs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is none is an error that names it; the revision is what is asked of the hub."""
    from transformers import AutoTokenizer

    with pytest.raises(BackendUnavailable, match="abacus"):
        await make(device="abacus").load()
    asked: list[str] = []
    from_pretrained = AutoTokenizer.from_pretrained
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda path, revision: asked.append(revision) or from_pretrained(path))
    await make(revision="v2").load()
    assert asked == ["v2"]


async def test_the_fleets_small_model_answers(make: Make) -> None:
    """The shipped model is served by its name, whatever the working directory."""
    call = await answered(make(model="fleet/small"), asking("Use 4 9 10 13 to make 24.", temperature=0, max_tokens=60))
    assert "=" in call.choices[0].text


async def test_a_narrow_model_refuses_prompts_that_are_not_of_its_kind(make: Make) -> None:
    """`reads` says what it can read; the message gives an example; a verdict on an earlier answer does not count as the prompt."""
    backend = make(reads={"pattern": r"one", "example": "one two"})
    with pytest.raises(BackendRefused, match='such as "one two"') as caught:
        await answered(backend, asking("two", max_tokens=2))
    assert caught.value.code == "unreadable_prompt"
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "two"}]
    call = await answered(backend, ChatRequest(tuple(turns), max_tokens=2))
    assert call.choices
    with pytest.raises(ValidationError, match="not a regular expression"):
        LocalOptions.model_validate({"model": "m", "reads": {"pattern": "(", "example": ""}})

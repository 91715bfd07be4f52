"""A backend in this process: any causal language model of transformers, by folder or hub name.

Requests of all callers are decoded together by one thread (`adapters/decoding/`), never on the event loop. This file is the asynchronous
face of it, and light to import: torch and transformers are loaded with the model. Not honoured, because nothing here can:
tool calls are passed to a template that knows tools but not parsed from the answer; penalties and logit biases have no effect.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from adapters.errors import AdapterError, BackendError, BackendTimeout, BackendUnavailable, MissingExtra
from adapters.model_folder import PACKAGE_ROOT, local_folder
from adapters.options import BY_FILE, Options, PriceOption
from adapters.types import Call, ChatRequest, Delta, Features, Price

if TYPE_CHECKING:
    from adapters.decoding.chat import ChatReader
    from adapters.decoding.jobs import Job
    from adapters.decoding.model import CausalModel
    from adapters.decoding.worker import Worker

DEFAULT_MAX_TOKENS = 1024
"""Of an answer, where neither request, configuration nor the model's files say."""


class Reads(Options):
    """What a narrow model can read: prompts that look otherwise are refused, rather than answered with nonsense."""

    pattern: str = Field(description="regular expression that a user message of the conversation must match somewhere")
    example: str = Field(description="a prompt that it reads, for the message to the caller")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class LocalOptions(Options):
    """Which model, and how much of it at once."""

    kind: Literal["local"] = "local"
    model: Annotated[str, BY_FILE] = Field(
        min_length=1, description="a folder (in the working directory or beside the packages: fleet/small) or a hub name"
    )
    price: PriceOption = Price()
    revision: Annotated[str | None, BY_FILE] = Field(None, description="of a hub name: branch, tag or commit")
    reads: Reads | None = Field(None, description="unset: any prompt of words that its tokenizer knows")
    device: str = Field("auto", description="auto: the GPU if there is one, else the CPU; or torch's name of it")
    dtype: str = Field("auto", description="auto: as the weights were saved; or torch's name of it")
    threads: int = Field(1, ge=1, description="of torch, for this model's work on the CPU")
    max_batch: int = Field(64, ge=1, description="answers decoded together")
    max_concurrency: int = Field(256, ge=1, description="calls decoded together; one call may have many answers")
    max_waiting: int = Field(1024, ge=1, description="calls that may wait for their turn; more are turned away at once")
    max_tokens: int | None = Field(None, ge=1, description="of an answer, where the request does not say; unset: the model's own")
    prefix_cache_mb: float = Field(64, ge=0, description="of what was computed for texts that may be gone on from; 0: each is read anew")
    timeout_s: float = Field(60, gt=0, description="for a plain answer as a whole, for a stream until each next piece")


class LocalBackend:
    """Decodes in process. The model is loaded at first use, or by `load`."""

    def __init__(self, name: str, options: LocalOptions) -> None:
        self.name, self.price = name, options.price
        self.features = Features(True, native_n=True, logprobs=True, caches_prefix=options.prefix_cache_mb > 0)
        self._options = options
        self._reading, self._starting = threading.Lock(), threading.Lock()
        self._reader: ChatReader | None = None
        self._worker: Worker | None = None
        self._closed = False

    async def load(self) -> None:
        """Read tokenizer and weights, off the event loop. BackendUnavailable if there is no such model; MissingExtra without torch."""
        await self._loaded()

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """`request.n` answers; each stands in `call.choices` as soon as it is finished."""
        async for _ in self._deltas(request, call, live=False):
            pass

    def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The same, token by token."""
        return self._deltas(request, call, live=True)

    def count_tokens(self, request: ChatRequest) -> int:
        """Exactly the input tokens of a request. Before the model is loaded this reads its tokenizer, which takes a moment."""
        return len(self._chat().tokens(request))

    async def aclose(self) -> None:
        """Stop the thread; calls still open end with BackendUnavailable."""
        await asyncio.to_thread(self._stop)

    # --- one call -------------------------------------------------------------------------------------------------

    async def _deltas(self, request: ChatRequest, call: Call, *, live: bool) -> AsyncIterator[Delta]:
        model, worker = await self._loaded()
        job = self._job(model, request, call, live)
        worker.submit(job)
        keep = True
        try:
            while event := await self._next(job):
                if isinstance(event, BackendError):
                    raise event
                yield event
        except BackendError:
            # The caller gets an error, so a piece of an answer is of no use to it; finished ones stay in the call.
            keep = False
            raise
        finally:
            worker.cancel(job, keep=keep)

    async def _next(self, job: Job) -> Delta | BackendError | None:
        try:
            async with asyncio.timeout(self._options.timeout_s):
                return await job.events.get()
        except TimeoutError:
            raise BackendTimeout(self.name, f"no answer within {self._options.timeout_s} s") from None

    def _job(self, model: CausalModel, request: ChatRequest, call: Call, live: bool) -> Job:
        from adapters.decoding.jobs import Job

        chat, defaults = self._chat(), model.defaults
        prompt = chat.checked(request, defaults.max_context)
        longest = request.max_tokens or self._options.max_tokens or defaults.max_tokens or DEFAULT_MAX_TOKENS
        if defaults.max_context is not None:
            longest = min(longest, defaults.max_context - len(prompt))
        sampling = defaults.sampling.but(request.temperature, request.top_p)
        context, spaces = chat.continued(request, prompt)
        return Job(
            prompt, request.n, sampling, longest, request.seed, request.stop, request.logprobs, live, chat.decode, context, spaces, call
        )  # fmt: skip

    # --- loading --------------------------------------------------------------------------------------------------

    async def _loaded(self) -> tuple[CausalModel, Worker]:
        """The model and the thread that owns it; a thread that has ended (a model that could not be loaded, a crash) is replaced."""
        worker = self._worker
        if worker is None or worker.ended:
            worker = await asyncio.to_thread(self._start)
        ready = worker.ready
        try:  # the shield: that one caller gives up must not stop the loading
            model = ready.result() if ready.done() else await asyncio.shield(asyncio.wrap_future(ready))
        except AdapterError:
            raise
        except Exception as error:
            raise BackendUnavailable(self.name, f"cannot load '{self._options.model}': {type(error).__name__}: {error}") from error
        defaults = model.defaults
        longest = self._options.max_tokens or defaults.max_tokens
        self.features = dataclasses.replace(self.features, max_context=defaults.max_context, max_tokens=longest)
        return model, worker

    def _start(self) -> Worker:
        with self._starting:
            if self._closed:
                raise BackendUnavailable(self.name, "the backend is closed")
            if self._worker is None or self._worker.ended:
                self._worker = self._new_worker()
            return self._worker

    def _stop(self) -> None:
        with self._starting:
            self._closed = True
            if self._worker is not None:
                self._worker.close()

    def _new_worker(self) -> Worker:
        try:
            from adapters.decoding.worker import Bounds, Worker
        except ImportError as error:
            raise MissingExtra(f"backend '{self.name}': a local model needs torch and transformers; install them ({error})") from error
        o = self._options
        bounds = Bounds(o.max_batch, o.max_concurrency, o.max_waiting, o.threads, int(o.prefix_cache_mb * 1e6))
        return Worker(self.name, self._load_model, bounds)

    def _load_model(self) -> CausalModel:
        from adapters.decoding.model import load_model

        o = self._options
        chat = self._chat()
        try:
            return load_model(resolve(o.model), revision=o.revision, device=o.device, dtype=o.dtype, ends=chat.ends)
        except (OSError, ValueError) as error:
            raise self._not_found(error) from error

    def _chat(self) -> ChatReader:
        """The tokenizer, read once, by whoever needs it first."""
        with self._reading:
            if self._reader is None:
                self._reader = self._read_tokenizer()
            return self._reader

    def _read_tokenizer(self) -> ChatReader:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingExtra(f"backend '{self.name}': a local model needs torch and transformers; install them ({error})") from error
        o = self._options
        try:
            return self._chat_reader(AutoTokenizer.from_pretrained(resolve(o.model), revision=o.revision))
        except (OSError, ValueError) as error:
            raise self._not_found(error) from error

    def _chat_reader(self, tokenizer: Any) -> ChatReader:
        from adapters.decoding.chat import ChatReader

        reads = self._options.reads
        return ChatReader(self.name, tokenizer, self._options.model, (reads.pattern, reads.example) if reads else None)

    def _not_found(self, error: Exception) -> BackendUnavailable:
        first = str(error).strip().split("\n", 1)[0]
        return BackendUnavailable(
            self.name,
            f"cannot load the model '{self._options.model}': no usable model in a folder of that name here or in {PACKAGE_ROOT}, "
            f"nor on the hub ({type(error).__name__}: {first})",
        )


def resolve(model: str) -> str:
    """The model's folder, if it is here; else the name itself, for the hub."""
    return str(local_folder(model) or model)

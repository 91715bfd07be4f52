"""A verifier of the operator's own: a Python function, such as the exact checker of the embedded puzzles."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import Field

from adapters.errors import MissingExtra, VerifierError
from adapters.options import BY_FILE, Options, PriceOption
from adapters.scoring import unless_all_failed
from adapters.types import Call, ChatRequest, Choice, Price, Verdict

Check = Callable[[str, str], float | bool | tuple[float | bool, str]]
"""(prompt, answer) -> True or False, or a score in [0, 1]; or (that, a signature): answers of one signature vote as one."""

LONGEST = 64
"""Characters of a signature that are kept as they are; of a longer one, the digest is."""


class PythonOptions(Options):
    """A function of the operator's own."""

    kind: Literal["python"] = "python"
    entry: Annotated[str, BY_FILE] = Field(pattern=r"^[\w.]+:\w+$", description='"package.module:function", called with (prompt, answer)')
    timeout_s: float = Field(5, gt=0, description="for all answers of a call together; those checked by then keep their scores")
    max_concurrency: int = Field(16, ge=1, description="calls checked at once, each in a thread; one that never returns keeps its place")
    price: PriceOption = Price()


class PythonVerifier:
    """Runs the function off the event loop, in threads that do not outlive the process, because nothing can stop a check that hangs."""

    scores_prefixes = False

    def __init__(self, name: str, options: PythonOptions) -> None:
        self.name, self.price = name, options.price
        self._check = _load(options.entry)
        self._timeout_s = options.timeout_s
        self._places = asyncio.Semaphore(options.max_concurrency)

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each answer; raises VerifierError if none could be checked in time."""
        results: list[Verdict | VerifierError] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._run(request.prompt, [choice.text for choice in choices], results)
        except TimeoutError:
            results = list(results)  # the thread may still add to its own
            late = VerifierError(self.name, f"no verdict within {self._timeout_s:g} s")
            results += [late] * (len(choices) - len(results))
        return unless_all_failed(results)

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _run(self, prompt: str, answers: Sequence[str], results: list[Verdict | VerifierError]) -> None:
        await self._places.acquire()
        loop, done, given_up = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def release() -> None:
            self._places.release()
            done.set()

        def work() -> None:
            for answer in answers:
                if not given_up.is_set():
                    results.append(self._one(prompt, answer))
            with suppress(RuntimeError):  # the loop was closed while the check hung; nobody waits any more
                loop.call_soon_threadsafe(release)

        threading.Thread(target=work, daemon=True, name=f"verifier-{self.name}").start()
        try:
            await done.wait()
        finally:
            given_up.set()

    def _one(self, prompt: str, answer: str) -> Verdict | VerifierError:
        try:
            said = self._check(prompt, answer)
            value, signature = said if isinstance(said, tuple) else (said, "")
            value = float(value)
        except (Exception, SystemExit) as error:  # whatever the operator's function raises is a check that failed, not a crash
            return VerifierError(self.name, f"the check raised {type(error).__name__}: {error}")
        if not 0 <= value <= 1:
            return VerifierError(self.name, f"the check gave {value}; a score is between 0 and 1")
        if not isinstance(signature, str):
            return VerifierError(self.name, f"the check gave a signature of type {type(signature).__name__}; a string is needed")
        return Verdict(value, cluster=signature if len(signature) <= LONGEST else _digest(signature))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:LONGEST]


def _load(entry: str) -> Check:
    module, _, function = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise MissingExtra(f"entry '{entry}': {error}; write package.module:function, installed or on PYTHONPATH") from None
    if not callable(found):
        raise MissingExtra(f"entry '{entry}' is a {type(found).__name__}; a function of (prompt, answer) is needed")
    check: Check = found
    return check

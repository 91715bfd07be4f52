"""One answer to the request as it is."""

from __future__ import annotations

from adapters.types import ChatRequest
from policies.plans import Single
from router.candidates import Candidate
from router.run import Run
from router.strategies.answers import buy, top


async def single(spec: Single, request: ChatRequest, run: Run) -> Candidate:
    """The answer, live where the client streams; the best of them where the client asked for several."""
    return top(await buy(spec, request, run, live=True))

"""How each kind of plan is carried out: one function a file, all of the same shape, spending only through the run they are handed.

`STRATEGIES` is the whole list. A new one is a function here, its options in `policies/plans.py`, and a line in each table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from adapters.types import ChatRequest
from router.candidates import Candidate
from router.run import Run
from router.strategies.best_of_n import best_of_n
from router.strategies.ensemble import ensemble
from router.strategies.revise import revise
from router.strategies.single import single
from router.strategies.tree_search import tree_search

Strategy = Callable[[Any, ChatRequest, Run], Awaitable[Candidate | None]]
"""(plan of the strategy's own kind, request, run) -> the chosen answer; None where the policy wanted none any more. Raises OutOfBudget or
BackendError where none was to be had."""

STRATEGIES: dict[str, Strategy] = {
    "single": single,
    "revise": revise,
    "best_of_n": best_of_n,
    "tree_search": tree_search,
    "ensemble": ensemble,
}

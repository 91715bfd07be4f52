"""`outlay check`: is a configuration valid, do its policies decide as its tests say, and what does each plan cost at the 95th percentile?

The tests stand beside the configuration, `fleet_test.yaml` for `fleet.yaml`: an estimate, facts and answers in, the expected decision.
They need no backend, no key and no Python.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from rich.console import Console
from rich.table import Table

from adapters.errors import AdapterError
from adapters.options import ENVIRONMENT
from adapters.types import ChatRequest
from difficulty.belief import Belief, Evidence, Success, logit
from difficulty.curves import Curves
from policies.decide import decide
from policies.facts import Decision, Facts, Market, NothingToRun
from policies.forecast import stages, worst
from policies.plans import Frozen
from router.assembly import parts
from router.certificate import held_to
from router.config import Config, parse
from router.errors import ConfigError
from router.pacing import objective_of
from router.parts import Parts
from router.record import facts_from_json
from router.run import DEFAULT_MAX_TOKENS
from router.splits import shown
from router.yaml_errors import explain, read_yaml

PAID = ("openai", "litellm")
"""Kinds of backends that somebody sends a bill for."""
TYPICAL_INPUT_TOKENS = 200
"""Length of a prompt, where neither the command nor a backend says what is usual."""


class Expected(Frozen):
    """What the decision must be; what is left out may be anything."""

    plan: str | None = Field(None, description="the plan's whole key")
    kind: Literal["single", "revise", "best_of_n", "tree_search", "ensemble", "stop", "refuse"] | None = None
    backend: str | None = Field(None, description="of an ensemble all of them, such as `small, large`")
    cause: str | None = None


class Seen(Frozen):
    """An answer that the policy has already seen."""

    backend: str
    verifier: str | None = None
    score: float | None = None


class PolicyTest(Frozen):
    """One case."""

    name: str
    policy: str
    p_correct: Mapping[str, float] = Field(description="by backend: what the probe says")
    facts: Mapping[str, Any] = {}
    answers: tuple[Seen, ...] = ()
    expect: Expected


class TestFile(Frozen):
    """A `*_test.yaml`."""

    __test__ = False
    tests: tuple[PolicyTest, ...] = Field(min_length=1)


def check(path: Path, console: Console | None = None, tokens: int | None = None) -> int:
    """Print what was found, costs for a prompt of so many tokens. 0 if all is well, 1 if a policy test failed. Raises ConfigError where
    the file itself is wrong."""
    console = console or Console(soft_wrap=True)
    raw, lacking = read_yaml(path), set[str]()
    config = parse(raw, str(path))
    built = _built(parse(_filled(raw, lacking), str(path)))
    market = built.market
    console.print(f"{path}: valid; {len(config.backends)} backends, {len(config.policies)} policies")
    for variable in sorted(lacking):
        console.print(f"note: the environment variable {variable} is not set; `serve` will need it", markup=False)
    facts = Facts(input_tokens=tokens or _usual_tokens(config, built))
    console.print(_costs(config, market, facts))
    for line in chain(_budgets(config, market, facts), _tried(config), _unknown(config, built)):
        console.print(line, markup=False)
    tests = tests_beside(path)
    if not tests.exists():
        console.print(f"no {tests.name}: the policies are not tested")
        return 0
    count, failed = len(read_tests(tests).tests), failures(path, config, market)
    for test, found in failed:
        console.print(f"FAILED {tests.name}: {test.name}: {found}", style="red", markup=False)
    console.print(f"{tests.name}: {count - len(failed)} of {count} passed")
    return 1 if failed else 0


def tests_beside(path: Path) -> Path:
    """Where the policy tests of a configuration are, if there are any."""
    return path.with_name(f"{path.stem}_test.yaml")


def failures(path: Path, config: Config, market: Market | None = None) -> list[tuple[PolicyTest, str]]:
    """The policy tests beside a configuration that fail, each with why. Raises ConfigError where they cannot be read."""
    tests = tests_beside(path)
    if not tests.exists():
        return []
    market = market or _built(config).market
    return [(test, found) for test in read_tests(tests).tests if (found := run_test(test, config, market))]


def _built(config: Config) -> Parts:
    """What `serve` will have: prices and curves among it."""
    built = parts(config)
    held_to(config, built)
    return built


def _usual_tokens(config: Config, built: Parts) -> int:
    """Length of the prompt that a backend names as an example of what it reads, if one does and its tokenizer is here."""
    for name, options in config.backends.items():
        if reads := getattr(options, "reads", None):
            with suppress(AdapterError):
                return built.backends[name].count_tokens(ChatRequest(({"role": "user", "content": reads.example},)))
    return TYPICAL_INPUT_TOKENS


def _unknown(config: Config, built: Parts) -> Iterator[str]:
    """Backends of which something that costs money is not known."""
    for name in (name for name, options in config.backends.items() if options.kind in PAID):
        able = built.backends[name].features
        if not any(built.market.prices.get(name, (0, 0))):
            yield f"note: backends.{name}: no price is known; its calls count as free, and no limit on cost holds them"
        elif not (able.max_tokens or able.max_output or able.max_context):
            yield (
                f"note: backends.{name}: nobody knows how long its answers may be; where money is limited, one that the request gives no "
                f"max_tokens is cut at {DEFAULT_MAX_TOKENS:,} tokens: set max_tokens or max_context"
            )


def _filled(value: Any, lacking: set[str]) -> Any:
    """The file with something in the place of each secret that is not there, and these noted: nobody is asked with it here."""
    if isinstance(value, dict):
        return {key: _filled(one, lacking) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, lacking) for one in value]
    variable = str(value).removeprefix(ENVIRONMENT)
    if variable == str(value) or os.environ.get(variable):
        return value
    lacking.add(variable)
    return "unset"


def _costs(config: Config, market: Market, facts: Facts) -> Table:
    title = f"cost and time of a prompt of {facts.input_tokens:,} tokens (--tokens), at the 95th percentile if no plan ends early"
    table = Table("policy", "plan", "$ (95 %)", "s (95 %)", title=title, title_justify="left")
    for name, policy in config.policies.items():
        for plan in policy.all_plans:
            cost, seconds = worst(stages(plan, market, facts))
            known = market.curves.latency.keys() >= set(plan.backends)
            table.add_row(name, plan.key, f"{cost:.6f}" if cost else "no price", f"{seconds:.2f}" if known else "never timed")
    return table


def _budgets(config: Config, market: Market, facts: Facts) -> Iterator[str]:
    """What each budget over time buys, and what may be spent beyond it."""
    for name, policy in config.policies.items():
        if (objective := objective_of(policy)) is None:
            continue
        costs = [worst(stages(plan, market, facts))[0] for plan in policy.all_plans]
        cheapest, most = min(costs), policy.limits.cost_usd or max(costs)
        enough = f", enough for {objective.budget_usd / cheapest:,.0f} requests and more that all get the cheapest plan" if cheapest else ""
        end = f"then ${cheapest:.6f} a request at the 95th percentile" if objective.when_spent == "cheapest" else "then nothing"
        yield (
            f"policies.{name}: ${objective.budget_usd:g} per {objective.per}{enough}; {end}. "
            f"What is under way when it ends may add ${most:.6g} each"
        )


def _tried(config: Config) -> Iterator[str]:
    """What is tried on live traffic."""
    yield from (f"splits.{name}: {shown(shares)}" for name, shares in config.splits.items())
    for name, shares in config.shadow_policies.items():
        yield from (f"shadow_policies.{name}: {other} decides beside {share * 100:g} % of its requests" for other, share in shares.items())


def read_tests(path: Path) -> TestFile:
    """The tests in a file. Raises ConfigError."""
    raw = read_yaml(path)
    try:
        return TestFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in explain(error, raw, TestFile))) from None


def run_test(test: PolicyTest, config: Config, market: Market) -> str:
    """What is wrong with the decision; empty if it is the expected one."""
    if test.policy not in config.policies:
        return f"no policy '{test.policy}'"
    facts = facts_from_json({"input_tokens": TYPICAL_INPUT_TOKENS, **test.facts})
    try:
        found = decide(config.policies[test.policy], market, facts, _belief(test, market))
    except NothingToRun as nothing:
        return "" if test.expect.kind == "refuse" else f"nothing may run: {nothing}"
    return _difference(test.expect, found)


def _difference(expect: Expected, found: Decision) -> str:
    is_ = {"plan": found.plan and found.plan.key, "kind": found.plan.kind if found.plan else "stop", "cause": found.cause}
    is_["backend"] = ", ".join(found.plan.backends) if found.plan else None
    wrong = [f"{k} is {is_[k]}, expected {v}" for k, v in expect.model_dump().items() if v is not None and is_[k] != v]
    return "; ".join(wrong) + f" ({found.reason})" if wrong else ""


def _belief(test: PolicyTest, market: Market) -> Belief:
    curves = market.curves
    slopes = {name: curves.success.get(name, Success(0.0)).line(0.0)[1:] for name in test.p_correct}
    prior = Belief({name: (centre(p, *slopes[name]), *slopes[name]) for name, p in test.p_correct.items()})
    return prior.after(_evidence(seen, curves) for seen in test.answers)


def _evidence(seen: Seen, curves: Curves) -> Evidence:
    if seen.verifier is None or seen.score is None:
        return Evidence(seen.backend)
    return curves.scores_of(seen.verifier).seen(seen.backend, seen.score)


def centre(p: float, *slopes: float) -> float:
    """The logit at u and v of 0 under which the chance, averaged over both, is p; by bisection."""
    low, high = -30.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if Belief({"m": (middle, *slopes)}).p_correct("m") < p else (low, middle)
    return low if 0 < p < 1 else float(logit(p))

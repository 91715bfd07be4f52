"""`outlay certify`: plays a policy over its dial on held-out prompts, and writes down which settings provably lose at most epsilon.

A group of near-duplicates is one draw, with the mean loss of its prompts; the reference's quality is the mean of all its recorded answers.
The statistics are in `policies/certify.py`, what is written in `certificate.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from difficulty.digest import digest
from policies.certify import p_value, passed
from policies.policy import Policy
from router.certificate import Certificate, Setting, worth_of
from router.engine import engine
from router.errors import ConfigError, have_instead
from router.fit import samples
from router.offline import Rows, Study, at, dial, opened, progress
from router.play import Played, play

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is to be proven."""

    epsilon: float
    delta: float
    against: str = ""
    """Name of a backend; empty: what the configuration compares with."""
    mean_cost_usd: float | None = None


def run_certify(config: Path, log: Path, out: Path | None, policy: str | None, terms: Terms, fresh: bool) -> bool:
    """Test, show and write; whether any setting passed. Ctrl-C leaves what was there before. Raises ConfigError or FitError."""
    console, study = Console(stderr=True), opened(config, log, fresh)
    terms = replace(terms, against=terms.against or study.parts.baseline or "")
    name = policy or study.config.default_policy
    proof = certified(study, name, terms, console)
    console.print(_shown(proof, terms))
    if not isinstance(proof, Certificate):
        console.print(f"nothing holds on {len(study.rows)} prompts, and nothing is written; more prompts, or a larger --epsilon, may help")
        return False
    target = out or Path(study.config.probe.artifact or ".") / f"certificate.{name}.json"
    proof.save(target)
    console.print(f"{len(proof.accepted.multipliers)} of {len(proof.settings)} settings hold; for the service to hold to them:")
    console.print(f"policies.{name}.certificate: {target}", soft_wrap=True, markup=False)
    return True


def certified(study: Study, name: str, terms: Terms, console: Console) -> Certificate | list[Setting]:
    """The certificate of a policy; where no setting passed, the settings as they were tested."""
    policy = study.policy(name)
    _check(study, policy, terms)
    grid = dial(policy)
    with progress(len(grid) * len(study.rows), f"certify {name}", console) as step:
        runs = [play(study.parts, at(policy, multiplier), study.rows, study.estimates, step) for multiplier in grid]
    settings = [_setting(multiplier, study.rows, run, policy, terms) for multiplier, run in zip(grid, runs, strict=True)]
    first, last = holding(settings, terms.delta)
    if first > last:
        return settings
    groups = len({row["group"] for row in study.rows})
    return Certificate(
        policy=name,
        engine=engine(policy, study.config, study.parts),
        objective=worth_of(policy),
        epsilon=terms.epsilon,
        delta=terms.delta,
        against=terms.against,
        mean_cost_usd=terms.mean_cost_usd,
        prompts=len(study.rows),
        groups=groups,
        data=digest(study.rows),
        settings=tuple(settings),
        first=first,
        last=last,
    )


def holding(settings: Sequence[Setting], delta: float) -> tuple[int, int]:
    """Places of the first and the last setting that hold. Quality is tested from the safest on; a cap on cost from the cheapest on, and
    then each gets half of delta."""
    p_cost = [setting.p_cost for setting in settings if setting.p_cost is not None]
    last = passed([setting.p_value for setting in settings], delta / 2 if p_cost else delta) - 1
    return (len(settings) - passed(p_cost[::-1], delta / 2) if p_cost else 0), last


def reference(rows: Rows, backend: str) -> Array:
    """Share of a backend's recorded answers that is right, by row, shape [N]."""
    return np.array([np.mean([answer["correct"] for answer in samples(row)[backend]["answers"]]) for row in rows])


def by_group(groups: Sequence[str], values: Array) -> Array:
    """The mean of each group, in the order in which they first came, shape [G]."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    place = np.array([names[group] for group in groups])
    return np.asarray(np.bincount(place, weights=values) / np.bincount(place))


def _setting(multiplier: float, rows: Rows, run: Sequence[Played], policy: Policy, terms: Terms) -> Setting:
    groups = [played.group for played in run]
    drop = reference(rows, terms.against) - np.array([played.right for played in run])
    cost = np.array([played.cost_usd for played in run])
    capped = None
    if terms.mean_cost_usd is not None:
        assert policy.limits.cost_usd is not None, "checked before"
        capped = p_value(by_group(groups, cost), terms.mean_cost_usd, worst=policy.limits.cost_usd)
    p = p_value(by_group(groups, drop), terms.epsilon)
    return Setting(multiplier=multiplier, p_value=p, p_cost=capped, drop=float(drop.mean()), cost_usd=float(cost.mean()))


def _check(study: Study, policy: Policy, terms: Terms) -> None:
    """What would make the proof void, or the message obscure."""
    if terms.against not in study.parts.backends:
        raise ConfigError(f"--against: no backend '{terms.against}'; {have_instead(terms.against, study.parts.backends)}")
    if lacking := [row["prompt"] for row in study.rows if not samples(row).get(terms.against, {}).get("answers")]:
        raise ConfigError(f"--against: the log holds no answer of '{terms.against}' to {len(lacking)} prompts, such as '{lacking[0][:40]}'")
    ceiling = policy.limits.cost_usd
    if terms.mean_cost_usd is not None and (ceiling is None or ceiling <= terms.mean_cost_usd):
        raise ConfigError("--mean-cost-usd: needs limits.cost_usd above it in the policy: without a ceiling no mean can be bounded")


def _shown(proof: Certificate | list[Setting], terms: Terms) -> Table:
    title = f"at most {terms.epsilon:.3g} below {terms.against}, confidence {1 - terms.delta:.0%}"
    table = Table("dollar counts", "drop", "$/1,000", "p", "", title=title, title_justify="left", box=None)
    holds = proof.accepted.multipliers if isinstance(proof, Certificate) else ()
    for row in proof.settings if isinstance(proof, Certificate) else proof:
        p = f"{row.p_value:.2g}" if row.p_cost is None else f"{row.p_value:.2g}, cost {row.p_cost:.2g}"
        held = "holds" * (row.multiplier in holds)
        table.add_row(f"x {row.multiplier:.3g}", f"{row.drop:+.4f}", f"{1000 * row.cost_usd:.4f}", p, held)
    return table

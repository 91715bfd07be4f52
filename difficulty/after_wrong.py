"""What a wrong answer says of the next one, as seen on prompts that nothing was fitted on and as believed: for the report of a fit.

It is the figure that plans of several steps live by: whether to ask the same backend again, another one, or nobody. Beside the belief
stands what it would be without parts of a backend's own (`learn_success.py`), which is what those are worth.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from difficulty.belief import NODES, PRIOR, Array, Success, prior_of
from difficulty.fit import FittedProbe
from difficulty.labels import TEST, Mask
from difficulty.learn_success import fit_shared

Counts = Mapping[str, Array]
"""By backend, of shape [N] over prompts."""
Pair = tuple[str, str]
"""Who was wrong, and who is asked next."""


def seen_after_wrong(right: Counts, draws: Counts) -> dict[Pair, float]:
    """Share of right answers among those next to a wrong one, over all pairs of recorded draws; not a number where there is none."""
    found = {}
    for one in right:
        for two in right:
            k, n, others = right[two], draws[two], draws[one] - right[one]
            spare = n - 1 if one == two else n
            share = np.divide(k, spare, out=np.zeros(len(k)), where=spare > 0)
            weight = others * (spare > 0)
            found[one, two] = float((share * weight).sum() / weight.sum()) if weight.any() else float("nan")
    return found


def believed_after_wrong(success: Mapping[str, Success], features: Counts) -> dict[Pair, float]:
    """The same as believed of these prompts before any answer: of all that could be wrong, the share whose next answer is right."""
    chance = {name: expit(curve.logits(features[name])).reshape(len(features[name]), len(NODES), -1) for name, curve in success.items()}
    own = {name: prior_of(curve.own).reshape(len(NODES), -1) / PRIOR[:, None] for name, curve in success.items()}
    mean = {name: (p * own[name]).sum(axis=2) for name, p in chance.items()}
    both = {name: (p * (1 - p) * own[name]).sum(axis=2) for name, p in chance.items()}
    return {
        (one, two): float(((both[one] if one == two else (1 - mean[one]) * mean[two]) @ PRIOR).sum() / ((1 - mean[one]) @ PRIOR).sum())
        for one in success
        for two in success
    }


def section(fitted: FittedProbe, success: Mapping[str, Success]) -> str:
    """A section of the report, on its test side."""
    features, right, draws = _on(fitted, fitted.side == TEST)
    seen, believed = seen_after_wrong(right, draws), believed_after_wrong(success, features)
    without = believed_after_wrong(fit_shared(*_on(fitted, fitted.side != TEST)), features)
    rows = [
        f"| {one} | {two} | {100 * share:.1f} % | {100 * believed[one, two]:.1f} % | {100 * without[one, two]:.1f} % |\n"
        for (one, two), share in seen.items()
        if np.isfinite(share)
    ]
    none = "" if any(curve.own for curve in success.values()) else " The log shows no such parts, and none are kept."
    return (
        "\n## After a wrong answer\n\n"
        "How often the next answer was right on the test side, and what was believed of it before any was seen: as fitted, and without a "
        f"difficulty of each backend's own beside the one that all share.{none}\n\n"
        f"| wrong | asked next | right | believed | without own parts |\n|---|---|---|---|---|\n{''.join(rows)}"
    )


def _on(fitted: FittedProbe, rows: Mask) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Features out of fold, right draws and draws of some prompts, by backend."""
    table = fitted.table
    features = {name: fitted.out_of_fold[name][rows] for name in table.backends}
    right, draws = ({name: of[name][rows].astype(np.float64) for name in table.backends} for of in (table.successes, table.draws))
    return features, right, draws

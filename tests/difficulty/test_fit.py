"""Fitting: a known signal is found, chance is not taken for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from difficulty.encoders import open_encoder
from difficulty.errors import FitError
from difficulty.fit import STRENGTHS, FittedProbe, fit_probe
from difficulty.labels import TEST, Labelled, table
from difficulty.metrics import auroc, calibration_error
from difficulty.probe import EncoderProbe, LinearProbe, design
from tests.difficulty.doubles import NOISE, SIGNAL, SignalEncoder, labelled


@pytest.fixture(scope="module")
def fitted() -> FittedProbe:
    return fit_probe(labelled(800), SignalEncoder())


def _test_auroc(fitted: FittedProbe, backend: str) -> float:
    rows = fitted.side == TEST
    return auroc(fitted.out_of_fold[backend][rows], fitted.table.successes[backend][rows], fitted.table.draws[backend][rows])


def test_a_known_signal_is_recovered_for_each_backend(fitted: FittedProbe) -> None:
    """An oracle that knows the ease reaches .85 (small) and .83 (large) here."""
    assert _test_auroc(fitted, "small") > 0.8
    assert _test_auroc(fitted, "large") > 0.8


def test_shuffled_labels_give_no_better_than_chance() -> None:
    rows = labelled(800, backends=["small"])
    shuffled = np.random.default_rng(0).permutation([row.successes for row in rows])
    fitted = fit_probe([replace(row, successes=int(k)) for row, k in zip(rows, shuffled, strict=True)], SignalEncoder())
    assert 0.4 < _test_auroc(fitted, "small") < 0.6
    p = fitted.head.p_correct(fitted.head.decision(design(fitted.encoding, fitted.choice.view)))
    assert p.std() < 0.05, "without a signal the probability stays at the base rate"


def test_the_view_that_holds_the_signal_is_chosen(fitted: FittedProbe) -> None:
    assert fitted.choice.view == SIGNAL
    assert fitted.choice.considered["layer 2, last"] < fitted.choice.considered["layer 1, last"]
    assert set(fitted.encoding.states) == {SIGNAL}


def test_a_real_causal_model_s_states_carry_what_its_prompts_say(tiny_causal: Path) -> None:
    """The more words of one half, the easier the prompt; even a random model's states show it, and length says nothing."""
    rng, rows = np.random.default_rng(1), []
    for _ in range(500):
        words = rng.integers(0, 8, 6)
        p = 1 / (1 + np.exp(-1.5 * ((words < 4).sum() - 3)))
        rows.append(Labelled(" ".join(f"w{w}" for w in words), "small", int(rng.binomial(4, p)), 4))
    assert _test_auroc(fit_probe(rows, open_encoder(str(tiny_causal))), "small") > 0.75


def test_probabilities_are_calibrated_on_prompts_never_seen(fitted: FittedProbe) -> None:
    p = fitted.head.p_correct(fitted.head.decision(design(fitted.encoding, fitted.choice.view)))
    rows = fitted.side == TEST
    for m, backend in enumerate(fitted.head.backends):
        assert calibration_error(p[rows, m], fitted.table.successes[backend][rows], fitted.table.draws[backend][rows]) < 0.08


def test_every_out_of_fold_value_comes_from_a_model_that_did_not_see_the_prompt(fitted: FittedProbe) -> None:
    """Changing the label of one training prompt leaves its own out-of-fold value, and moves those of other folds."""
    index = int(np.flatnonzero(fitted.side == 0)[0])
    prompt = fitted.table.prompts[index]
    flipped = [replace(r, successes=r.draws - r.successes) if r.prompt == prompt else r for r in labelled(800)]
    again = fit_probe(flipped, SignalEncoder(), dimensions=[fitted.choice.dimensions], strengths=[fitted.choice.strengths["small"]])
    same = fit_probe(labelled(800), SignalEncoder(), dimensions=[fitted.choice.dimensions], strengths=[fitted.choice.strengths["small"]])
    moved = again.out_of_fold["small"] != same.out_of_fold["small"]
    assert not moved[index]
    assert moved[same.side == TEST].all()


def test_the_collapsed_product_serves_what_was_fitted(fitted: FittedProbe) -> None:
    row = int(np.flatnonzero(fitted.side == TEST)[0])
    (served,) = EncoderProbe(SignalEncoder(), fitted.head).estimate([fitted.table.prompts[row]])
    assert served.features["large"] == pytest.approx(fitted.out_of_fold["large"][row])
    assert served.tokens_read == served.input_tokens + 2
    assert fitted.row(fitted.table.prompts[row]) == row


def test_scaling_and_components_collapse_without_a_trace() -> None:
    """With all components and hardly any penalty, the fit is the plain logistic regression on the raw columns."""
    from sklearn.linear_model import LogisticRegression

    fitted = fit_probe(labelled(300, backends=["small"], draws=1), SignalEncoder(), views=[SIGNAL], dimensions=[8], strengths=[1e6])
    seen = fitted.side != TEST
    x, y = design(fitted.encoding, SIGNAL), fitted.table.successes["small"]
    plain = LogisticRegression(C=1e6, max_iter=5000, tol=1e-8).fit(x[seen], y[seen])
    np.testing.assert_allclose(fitted.head.decision(x)[:, 0], plain.decision_function(x), atol=0.02)


def test_the_same_labels_and_seed_give_the_same_probe_and_another_seed_another(fitted: FittedProbe) -> None:
    again, other = fit_probe(labelled(800), SignalEncoder()), fit_probe(labelled(800), SignalEncoder(), seed=1)
    assert np.array_equal(again.head.weights, fitted.head.weights)
    assert not np.array_equal(other.head.weights, fitted.head.weights)


def test_views_dimensions_and_strengths_narrow_the_choice() -> None:
    fitted = fit_probe(labelled(200), SignalEncoder(), views=[NOISE], dimensions=[3], strengths=[STRENGTHS[1]])
    assert (fitted.choice.view, fitted.choice.dimensions) == (NOISE, 3)
    assert set(fitted.choice.strengths.values()) == {STRENGTHS[1]}


def test_a_backend_that_is_always_right_gets_a_constant_short_of_certainty() -> None:
    rows = [*labelled(200, backends=["small"]), *(replace(r, backend="perfect", successes=4) for r in labelled(200, backends=["small"]))]
    fitted = fit_probe(rows, SignalEncoder())
    values = fitted.out_of_fold["perfect"]
    estimate = EncoderProbe(SignalEncoder(), fitted.head).estimate(["anything"])[0]
    assert np.ptp(fitted.head.weights[1]) == 0
    assert values.min() > 3
    assert 0.99 < estimate.p_correct["perfect"] < 1


def test_backends_may_be_labelled_on_different_prompts() -> None:
    rows = labelled(600)
    sparse = [row for i, row in enumerate(rows) if row.backend == "small" or i % 4 == 1]
    fitted = fit_probe(sparse, SignalEncoder())
    assert _test_auroc(fitted, "large") > 0.75


def test_a_backend_without_labels_to_choose_by_is_refused() -> None:
    with pytest.raises(FitError, match="backend 'rare'"):
        fit_probe([*labelled(100, backends=["small"]), Labelled("one more", "rare", 1, 1)], SignalEncoder())


def test_progress_is_told_stage_by_stage_up_to_the_end() -> None:
    seen: dict[str, float] = {}
    fit_probe(labelled(100), SignalEncoder(), progress=seen.__setitem__)
    assert seen == {"encode": 1.0, "choose": 1.0, "fit": 1.0}


def test_more_draws_of_a_prompt_weigh_more() -> None:
    """A prompt labelled 40 times pulls the fit harder than one labelled once."""
    rows = labelled(100, backends=["small"], draws=1)
    heavy = [replace(r, successes=40 * r.successes, draws=40) if r.prompt == rows[0].prompt else r for r in rows]
    options = {"views": [SIGNAL], "dimensions": [8], "strengths": [0.1]}
    light, pulled = fit_probe(rows, SignalEncoder(), **options), fit_probe(heavy, SignalEncoder(), **options)
    assert table(rows).prompts[0] == rows[0].prompt
    assert not np.allclose(light.head.weights, pulled.head.weights)


def test_calibration_never_turns_the_order_round(fitted: FittedProbe) -> None:
    assert isinstance(fitted.head, LinearProbe)
    assert (fitted.head.slope >= 0).all()

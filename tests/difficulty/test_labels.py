"""Labels, groups and splits."""

from __future__ import annotations

import numpy as np
import pytest

from difficulty.errors import FitError
from difficulty.labels import FOLDS, Labelled, default_group, folds, sides, table


def test_rows_of_one_prompt_and_backend_add_up_and_a_backend_not_asked_has_no_draws() -> None:
    labels = table([Labelled("a", "small", 1, 2), Labelled("b", "large", 1, 1), Labelled(" a ", "small", 2, 2)])
    assert labels.prompts == ("a", "b")
    assert labels.successes["small"].tolist() == [3, 0]
    assert labels.draws["small"].tolist() == [4, 0]
    assert labels.draws["large"].tolist() == [0, 1]


@pytest.mark.parametrize("row", [Labelled("a", "m", 3, 2), Labelled("a", "m", -1, 2), Labelled("a", "m", 0, 0), Labelled(" ", "m", 1, 1)])
def test_an_impossible_label_is_refused_with_its_number(row: Labelled) -> None:
    with pytest.raises(FitError, match="label 1"):
        table([Labelled("fine", "m", 1, 1), row])


def test_no_labels_are_refused() -> None:
    with pytest.raises(FitError, match="no labels"):
        table([])


def test_prompts_that_differ_in_case_and_punctuation_are_near_duplicates() -> None:
    assert default_group("Use 4, 9 to make 24!") == default_group("use 4 9  to make 24")
    assert default_group("Use 4 9 to make 24") != default_group("Use 4 9 to make 25")


def test_a_group_that_is_given_wins_over_the_text() -> None:
    labels = table([Labelled("4 9 make 24", "m", 1, 1, "4 9"), Labelled("9 4 make 25", "m", 1, 1, "4 9"), Labelled("none", "m", 1, 1)])
    assert labels.groups == ("4 9", "4 9", default_group("none"))


def test_a_group_lies_on_one_side_and_in_one_fold_and_shares_are_as_said() -> None:
    groups = [f"g{i // 3}" for i in range(3000)]
    side, fold = sides(groups, seed=0), folds(groups, seed=0)
    assert (side.reshape(-1, 3) == side[::3, None]).all()
    assert (fold.reshape(-1, 3) == fold[::3, None]).all()
    assert np.bincount(side) / 3000 == pytest.approx([0.6, 0.2, 0.2], abs=0.05)
    assert np.bincount(fold) / 3000 == pytest.approx([1 / FOLDS] * FOLDS, abs=0.05)


def test_another_seed_splits_otherwise_and_more_labels_move_no_earlier_ones() -> None:
    groups = [f"g{i}" for i in range(200)]
    assert sides(groups, seed=0)[:100].tolist() == sides(groups[:100], seed=0).tolist()
    assert sides(groups, seed=0).tolist() != sides(groups, seed=1).tolist()


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(FitError, match="too few"):
        sides(["one"] * 50, seed=0)


def test_the_digest_changes_with_any_label() -> None:
    assert table([Labelled("a", "m", 1, 2)]).digest != table([Labelled("a", "m", 2, 2)]).digest
    assert table([Labelled("a", "m", 1, 2)]).digest == table([Labelled("a", "m", 1, 2)]).digest

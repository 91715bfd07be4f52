"""Versions of an artifact: fitted beside one another, put into use and taken back, and never one that does not load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difficulty.artifact import load_probe, located, save_probe
from difficulty.curves import Curves
from difficulty.encoders import View
from difficulty.errors import ArtifactError
from difficulty.probe import SCALARS, LinearProbe
from difficulty.versions import pointer, promote, resolved, rollback, versions, written
from router.assembly import located as located_file
from tests.difficulty.doubles import SignalEncoder


def a_version(folder: Path, seed: int) -> str:
    """Write one, as `outlay fit` does; its digest."""
    before = {path.name for path in (folder / "versions").glob("*")}
    numbers = np.random.default_rng(seed).normal(size=(1, 5 + SCALARS))
    head = LinearProbe(View(0, "last"), ("small",), numbers, np.zeros(1), np.ones(1), np.zeros(1))
    with written(folder) as place:
        save_probe(place, head, SignalEncoder(), data_digest=f"{seed:064}", seed=seed)
        Curves(source=str(seed)).save(place / "curves.json")
    return ({path.name for path in (folder / "versions").glob("*")} - before).pop()


def test_the_first_version_is_in_use_and_later_ones_once_promoted(tmp_path: Path) -> None:
    """Probe and curves are read as if they lay in the folder; both change at once."""
    first, second = a_version(tmp_path, 1), a_version(tmp_path, 2)

    def in_use() -> tuple[int, str]:
        return load_probe(located(str(tmp_path)))[1].seed, Curves.load(located_file(str(tmp_path / "curves.json"))).source

    assert in_use() == (1, "1")
    promote(tmp_path, second[:6])
    assert in_use() == (2, "2")
    assert rollback(tmp_path).current == first
    assert in_use() == (1, "1")
    with pytest.raises(ArtifactError, match="no version was in use before"):
        rollback(tmp_path)


def test_versions_are_listed_with_what_they_were_fitted_on(tmp_path: Path) -> None:
    """The one in use is marked."""
    first, second = a_version(tmp_path, 1), a_version(tmp_path, 2)
    listed = {version.digest: version for version in versions(tmp_path)}
    assert listed.keys() == {first, second}
    assert (listed[first].current, listed[second].current, listed[second].backends) == (True, False, ("small",))


@pytest.mark.parametrize("harm", ["changed", "no curves", "bad probe"])
def test_a_version_that_does_not_load_is_not_promoted(tmp_path: Path, harm: str) -> None:
    """Nor rolled back to; what is in use stays in use."""
    first, second = a_version(tmp_path, 1), a_version(tmp_path, 2)
    place = tmp_path / "versions" / second
    if harm == "changed":
        (place / "curves.json").write_text((place / "curves.json").read_text().replace("2", "3"))
    elif harm == "no curves":
        (place / "curves.json").unlink()
    else:
        (place / "probe.npz").write_bytes(b"none")
    with pytest.raises(ArtifactError, match="never changed"):
        promote(tmp_path, second)
    assert pointer(tmp_path).current == first


def broken(folder: Path, error: BaseException | None = None) -> None:
    """A fit that writes no probe that can be read, or does not get that far."""
    with written(folder) as place:
        (place / "probe.json").write_text("half")
        if error is not None:
            raise error


def test_a_fit_that_fails_or_cannot_be_read_back_leaves_nothing_behind(tmp_path: Path) -> None:
    """No half version, and the one in use as it was."""
    first = a_version(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        broken(tmp_path, KeyboardInterrupt())
    with pytest.raises(ArtifactError, match=r"probe\.json"):
        broken(tmp_path)
    assert [path.name for path in (tmp_path / "versions").iterdir()] == [first]


def test_names_that_are_none_or_not_enough_are_refused_with_what_there_is(tmp_path: Path) -> None:
    """Unknown, empty, and a folder without versions."""
    first = a_version(tmp_path, 1)
    for name in ("zzz", ""):
        with pytest.raises(ArtifactError, match=f"have {first}"):
            promote(tmp_path, name)
    with pytest.raises(ArtifactError, match="`outlay fit --out"):
        versions(tmp_path / "versions")


def test_a_folder_without_versions_stays_one(tmp_path: Path) -> None:
    """Such as those that are shipped: its files are written over, and paths mean what they say."""
    (tmp_path / "probe.json").write_text("old")
    with written(tmp_path) as place:
        assert place == tmp_path
    assert resolved(tmp_path) == tmp_path
    assert resolved(tmp_path / "none.json") == tmp_path / "none.json"


def test_a_damaged_pointer_says_how_to_mend_it(tmp_path: Path) -> None:
    """Instead of taking any version at all."""
    a_version(tmp_path, 1)
    (tmp_path / "current.json").write_text("{}")
    with pytest.raises(ArtifactError, match="artifacts promote"):
        located(str(tmp_path))

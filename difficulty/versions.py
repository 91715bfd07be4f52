"""Versions of an artifact (probe, curves, report): each in a folder of its own, and a pointer to the one in use, changed in one go.

    DIR/versions/<digest>/   what one `outlay fit` wrote, never changed; the digest is of its files
    DIR/current.json         which of them is in use, and which were before

Whoever reads `DIR`, or a file as if it lay in `DIR`, reads the one in use (`resolved`). A folder without a pointer is itself the one
version that it has, like those that are shipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from difficulty.artifact import load_probe
from difficulty.curves import Curves, CurvesError
from difficulty.digest import digest
from difficulty.errors import ArtifactError

POINTER = "current.json"


@dataclass(frozen=True, slots=True)
class Pointer:
    """The version in use, and those before it, newest first."""

    current: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """One version, for a list of them."""

    digest: str
    made_s: float
    """Unix time at which it was written."""
    data: str
    """Digest of the labels it was fitted on."""
    backends: tuple[str, ...]
    current: bool


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """A place to write a new version to, kept if nothing fails and it loads; the first one is in use at once, later ones when promoted.

    A folder that holds an artifact without versions is that place itself: its files are written over.
    """
    if (folder / "probe.json").exists() and not (folder / POINTER).exists():
        yield folder
        return
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    staging = Path(mkdtemp(prefix=".new-", dir=folder / "versions"))
    try:
        yield staging
        _load(staging)
        digest = digest_of(staging)
        if not _place(folder, digest).exists():
            staging.chmod(0o755)
            staging.rename(_place(folder, digest))
        if not (folder / POINTER).exists():
            promote(folder, digest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def digest_of(folder: Path) -> str:
    """Twelve hex digits that change with any file of a version."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    said = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    return digest(said)


def versions(folder: Path) -> list[Version]:
    """All that can be read, newest first. Raises ArtifactError where there are none."""
    current = pointer(folder).current
    found = [_version(path, current) for path in (folder / "versions").glob("[!.]*") if (path / "probe.json").is_file()]
    return sorted(found, key=lambda version: version.made_s, reverse=True)


def promote(folder: Path, digest: str) -> Pointer:
    """Put a version into use, named by the beginning of its digest. Raises ArtifactError, and changes nothing, if it cannot be loaded."""
    digest = _named(folder, digest)
    check(_place(folder, digest))
    was = pointer(folder) if (folder / POINTER).exists() else None
    if was is not None and was.current == digest:
        return was
    before = () if was is None else (was.current, *was.before)
    return _point(folder, Pointer(digest, before))


def rollback(folder: Path) -> Pointer:
    """Put the version before into use again. Raises ArtifactError, and changes nothing, if there is none or it cannot be loaded."""
    was = pointer(folder)
    if not was.before:
        raise ArtifactError(f"{folder}: no version was in use before {was.current}")
    check(_place(folder, was.before[0]))
    return _point(folder, Pointer(was.before[0], was.before[1:]))


def check(place: Path) -> None:
    """That a version is what its name says, and that probe and curves load. Raises ArtifactError."""
    if (found := digest_of(place)) != place.name:
        raise ArtifactError(f"{place}: its files have the digest {found}; a version is never changed, so fit again or restore it")
    _load(place)


def _load(place: Path) -> None:
    load_probe(place)
    try:
        Curves.load(place / "curves.json")
    except CurvesError as error:
        raise ArtifactError(str(error)) from error


def pointer(folder: Path) -> Pointer:
    """What is in use. Raises ArtifactError where the folder has no versions."""
    path = folder / POINTER
    try:
        data = json.loads(path.read_text())
        return Pointer(str(data["current"]), tuple(map(str, data["before"])))
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: no {POINTER}; `outlay fit --out {folder}` writes versions into an empty folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: {error}; write into it the digest of a version, as `outlay artifacts promote` does") from None


def resolved(path: Path) -> Path:
    """Where a folder with versions, or a file as if it lay in one, really lies; any other path as it is. Raises ArtifactError."""
    if (path / POINTER).is_file():
        return _place(path, pointer(path).current)
    if (path.parent / POINTER).is_file() and not path.exists():
        return _place(path.parent, pointer(path.parent).current) / path.name
    return path


def _point(folder: Path, to: Pointer) -> Pointer:
    partial = folder / (POINTER + ".partial")
    with partial.open("w") as file:
        file.write(json.dumps({"current": to.current, "before": to.before}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / POINTER)
    return to


def _named(folder: Path, digest: str) -> str:
    have = sorted(path.name for path in (folder / "versions").glob("[!.]*") if path.is_dir())
    fitting = [name for name in have if digest and name.startswith(digest)]
    if len(fitting) != 1:
        raise ArtifactError(f"{folder}: {len(fitting) or 'no'} versions begin with '{digest}'; have {', '.join(have) or 'none'}")
    return fitting[0]


def _version(path: Path, current: str) -> Version:
    card = load_probe(path)[1]
    return Version(path.name, (path / "probe.json").stat().st_mtime, card.data_digest[:12], card.backends, path.name == current)


def _place(folder: Path, digest: str) -> Path:
    return folder / "versions" / digest

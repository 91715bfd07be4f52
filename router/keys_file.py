"""Changing the file of keys: what `outlay keys` does. Comments in the file do not outlive it; values do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import yaml

from router.config import default_path, load
from router.errors import ConfigError, have_instead
from router.keys import Key, KeyFile, read_keys


def file_of(file: Path | None, config: Path | None) -> Path:
    """The file that is meant. Raises ConfigError where nobody says."""
    if file is not None:
        return file
    config = config or default_path()
    options = load(config).keys
    if options is None:
        raise ConfigError(f"{config}: names no file of keys; add keys: {{path: keys.yaml}}, or give --file")
    return Path(options.path)


def added(path: Path, key: Key) -> None:
    """Put a key into the file, which is made if it is not there."""
    keys = read_keys(path).keys if path.exists() else ()
    _write(path, KeyFile(keys=(*keys, key)))


def revoked(path: Path, id: str) -> None:
    """Mark a key as revoked. It stays in the file, so that its spending keeps a name."""
    keys = {key.id: key for key in read_keys(path).keys}
    if id not in keys:
        raise ConfigError(f"{path}: no key '{id}'; {have_instead(id, keys)}")
    keys[id] = keys[id].model_copy(update={"revoked": True})
    _write(path, KeyFile(keys=tuple(keys.values())))


def line_of(key: Key) -> str:
    """A key in one line, without its digest."""
    shown = key.model_dump(mode="json", exclude={"id", "name", "digest"}, exclude_defaults=True)
    return "  ".join([key.id, key.name, *(f"{name}={_brief(value)}" for name, value in shown.items())])


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{item:g}/{span}" for span, item in value.items() if item is not None)
    return ",".join(value) if isinstance(value, list) else str(value)


def _write(path: Path, file: KeyFile) -> None:
    """Replace the file, whole or not at all; only its owner may read it."""
    rows = [key.model_dump(mode="json", exclude_defaults=True) for key in file.keys]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8") as new:  # of mode 600
        yaml.safe_dump({"keys": rows}, new, sort_keys=False)
    os.replace(new.name, path)

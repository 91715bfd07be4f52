"""What the demonstration leaves behind: results.json, and on request the picture and the table of the README."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fleet.demo.asking import Answer
from fleet.demo.figures import Row, rows, shares
from fleet.demo.show import COLUMNS, cells

MARK = "<!-- frontier -->"
RESULTS = "results.json"


def save_results(answers: Sequence[Answer], settings: dict[str, Any], folder: Path) -> Path:
    """Settings, figures, and every request with its decision block."""
    path = folder / RESULTS
    found = {
        "settings": settings,
        "rows": [asdict(row) for row in rows(answers)],
        "ran": shares(answers),
        "requests": [asdict(answer) for answer in answers],
    }
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def publish(found: Sequence[Row], folder: Path, root: Path) -> None:
    """Copy the picture into the docs, and put it and the table between the marks of the README."""
    for name in ("frontier.png", "frontier.svg"):
        shutil.copy(folder / name, root / "docs" / name)
    readme = root / "README.md"
    readme.write_text(between_marks(readme.read_text(), f"![accuracy against cost](docs/frontier.png)\n\n{markdown(found)}"))


def between_marks(text: str, new: str) -> str:
    """The text with what stands between its two marks replaced. ValueError if there are not two."""
    parts = text.split(MARK)
    if len(parts) != 3:
        raise ValueError(f"expected two marks {MARK}, found {len(parts) - 1}")
    return f"{parts[0]}{MARK}\n{new}\n{MARK}{parts[2]}"


def markdown(found: Sequence[Row]) -> str:
    """The table of the terminal, for a page."""
    lines = [COLUMNS, ["---"] + ["--:"] * (len(COLUMNS) - 1), *map(cells, found)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

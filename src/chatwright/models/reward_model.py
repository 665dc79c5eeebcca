"""Reward models and the critic: a language model's trunk with one scalar output.

Saved as transformers' sequence classification with one label, so plain transformers loads them; the bias that makes SFT answers average 0
stands in the config as `score_bias` and is subtracted here. Shapes: B rows, T token positions, H hidden width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from chatwright.errors import ModelError
from chatwright.models.hardware import Hardware, choose_hardware
from chatwright.models.language_model import add_adapter, freeze_dropout, hidden_states, hub_options, load_tokenizer, loading, save_model
from chatwright.recipe import ModelSettings

BIAS = "score_bias"


@dataclass(slots=True)
class RewardModel:
    """A trunk and a scalar head. `scores` reads it at the last real token (a reward model), `values` at every token (a critic)."""

    model: Any
    tokenizer: Any
    hardware: Hardware
    adapter: Any = None

    @property
    def bias(self) -> float:
        """Mean raw score of SFT answers, subtracted from every score."""
        return float(getattr(self.model.config, BIAS, 0.0))

    @bias.setter
    def bias(self, value: float) -> None:
        setattr(self.model.config, BIAS, value)

    def values(self, ids_BT: Tensor, attention_BT: Tensor) -> Tensor:
        """The head's raw output at every position, (B, T), float32."""
        with self.hardware.autocast():
            return self.model.score(hidden_states(self.model, ids_BT, attention_BT)).squeeze(-1).float()

    def raw_scores(self, ids_BT: Tensor, attention_BT: Tensor) -> Tensor:
        """The head's output at the last real token of each row, (B,), float32. Lengths come from the mask, never from a pad id."""
        positions_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        last_B = torch.where(attention_BT, positions_T, -1).amax(dim=1)
        with self.hardware.autocast():
            states_BTH = hidden_states(self.model, ids_BT, attention_BT)
            states_BH = states_BTH[torch.arange(len(last_B), device=last_B.device), last_B]
            return self.model.score(states_BH).squeeze(-1).float()

    def scores(self, ids_BT: Tensor, attention_BT: Tensor) -> Tensor:
        """`raw_scores` minus the bias: 0 is an average SFT answer."""
        return self.raw_scores(ids_BT, attention_BT) - self.bias

    def save(self, folder: Path) -> None:
        """Write weights (adapters merged; this object is then spent), bias, tokenizer and template."""
        save_model(self.model, self.tokenizer, self.adapter, folder)


def new_reward_model(path: str | Path, settings: ModelSettings, *, seed: int) -> RewardModel:
    """A reward model to train, from a chat checkpoint; the head is drawn from N(0, 1 / (H + 1)), standard deviation 1 / sqrt(H + 1).

    Source: Llama 2, section 3.2.2 (same architecture, next-token head replaced); the initialisation: Stiennon et al. 2020.
    """
    reward_model = _load(path, settings, train=True)
    weight = reward_model.model.score.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) / math.sqrt(weight.shape[1] + 1)
    with torch.no_grad():
        weight.copy_(noise)
    return reward_model


def load_reward_model(path: str | Path, settings: ModelSettings, *, train: bool = False) -> RewardModel:
    """A trained reward model to score with, or (with `train`) the start of a critic."""
    reward_model = _load(path, settings, train=train)
    if not hasattr(reward_model.model.config, BIAS):
        raise ModelError(f"{path}: no {BIAS} in its config, so it is no reward model of chatwright; train one with: chatwright reward")
    return reward_model


def _load(path: str | Path, settings: ModelSettings, *, train: bool) -> RewardModel:
    hardware = choose_hardware(settings)
    tokenizer = load_tokenizer(path, settings)
    with loading(path, "a sequence classification model with one label"):
        model = AutoModelForSequenceClassification.from_pretrained(
            str(path), num_labels=1, dtype=torch.float32, **hub_options(path, settings)
        )
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ModelError(f"{path}: {type(model).__name__} has no linear 'score' head; expected a decoder-only classification model")
    model.config.pad_token_id = tokenizer.pad_token_id
    freeze_dropout(model, settings, train=train)
    reward_model = RewardModel(model.to(hardware.device), tokenizer, hardware)
    if train and settings.lora:
        reward_model.adapter = add_adapter(model, settings.lora)
        model.score.requires_grad_(True)
    return reward_model

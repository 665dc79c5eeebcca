"""From rendered dialogues to tensors: order, micro-batches under a token budget, padding.

Every order is a pure function of the seed and the step, so a resumed run sees the same data without storing a position in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatwright.dialogue import Tokens
from chatwright.errors import DataError
from chatwright.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right. All (B, T); `attention` marks real tokens, `response` those the assistant wrote."""

    ids: Tensor
    attention: Tensor
    response: Tensor


def collate(rows: Sequence[Tokens], pad_id: int, device: Any = "cpu") -> Batch:
    """A batch of the rows, in their order."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    attention = torch.zeros((len(rows), width), dtype=torch.bool)
    response = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.ids)
        attention[i, : len(row)] = True
        response[i, : len(row)] = torch.tensor(row.response_mask)
    return Batch(ids.to(device), attention.to(device), response.to(device))


def step_indices(num_examples: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which examples make up a step: a fresh permutation each epoch, the last batch of an epoch may be smaller."""
    epoch, position = divmod(step, steps_per_epoch(num_examples, batch_size))
    return _permutation(num_examples, epoch, seed)[position * batch_size : (position + 1) * batch_size]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    return -(-num_examples // batch_size)


def stream_indices(num_examples: int, start: int, count: int, seed: int) -> list[int]:
    """`count` indices from position `start` of one endless shuffled stream: every example once before any comes back."""
    epochs = range(start // num_examples, (start + count - 1) // num_examples + 1)
    stream = [index for epoch in epochs for index in _permutation(num_examples, epoch, seed)]
    offset = start - epochs[0] * num_examples
    return stream[offset : offset + count]


def _permutation(num_examples: int, epoch: int, seed: int) -> list[int]:
    return torch.randperm(num_examples, generator=torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))).tolist()


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices grouped so that each group, padded, holds at most `token_budget` tokens (or is a single row); like lengths go together."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= token_budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def fit_window(rows: Sequence[Tokens], window: int, too_long: str) -> list[Tokens]:
    """The rows that fit. A longer one raises DataError with its name, or with `too_long` "skip" is left out (the caller counts)."""
    longest = max(rows, key=len)
    if too_long == "error" and len(longest) > window:
        raise DataError(
            f"{longest.id or 'a dialogue'}: {len(longest)} tokens; expected at most window={window}. "
            "Raise window, shorten the dialogue, or set too_long=skip to leave such rows out"
        )
    return [row for row in rows if len(row) <= window]


def prompt_and_response(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Tokens:
    """A rollout as tokens: exactly the ids that were sampled, the response marked."""
    return Tokens([*prompt_ids, *response_ids], [False] * len(prompt_ids) + [True] * len(response_ids))

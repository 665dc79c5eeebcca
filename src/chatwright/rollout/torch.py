"""Sampling in process, with any causal language model of transformers.

Prompts of like length go together, left-padded; rows that have finished leave the batch, so the last long answer does not pay for the
others. Shapes: B rows still writing, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from chatwright.dialogue import stop_token_ids
from chatwright.errors import DataError, NonFiniteError
from chatwright.models.language_model import LanguageModel
from chatwright.recipe import SamplingSettings
from chatwright.rollout.base import Response
from chatwright.seeds import derive_seed


class TorchRollouts:
    """The `Rollouts` protocol over a `LanguageModel`, whose weights are used as they are at each call."""

    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy
        self.stop_ids = torch.tensor(sorted(stop_token_ids(policy.tokenizer)), device=policy.hardware.device)

    def room(self, prompts: Sequence[Sequence[int]]) -> int | None:
        """Tokens that the model's window leaves for an answer to the longest prompt; None where the model names no window."""
        window = getattr(self.policy.model.config, "max_position_embeddings", None)
        return int(window) - max((len(p) for p in prompts), default=0) if window else None

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, *, seed: int, advance: Callable[[int], None] | None = None
    ) -> list[Response]:
        """One answer for each prompt. Raises DataError if a prompt and the longest answer do not fit the model's window."""
        room = self.room(prompts)
        if room is not None and settings.max_new_tokens > room:
            longest = max(len(p) for p in prompts)
            raise DataError(
                f"a prompt of {longest} tokens and an answer of up to {settings.max_new_tokens} exceed the model's window of "
                f"{longest + room}; shorten the prompt or set a smaller sampling.max_new_tokens"
            )
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        responses: list[Response | None] = [None] * len(prompts)
        training = self.policy.model.training
        self.policy.model.eval()  # a model that trains with gradient checkpointing keeps no cache
        try:
            for start in range(0, len(order), settings.batch_size):
                rows = order[start : start + settings.batch_size]
                generator = torch.Generator(self.policy.hardware.device).manual_seed(derive_seed(seed, start))
                for row, response in zip(rows, self._batch([prompts[i] for i in rows], settings, generator), strict=True):
                    responses[row] = response
                if advance:
                    advance(len(rows))
        finally:
            self.policy.model.train(training)
        return [r for r in responses if r is not None]

    def _batch(self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, generator: torch.Generator) -> list[Response]:
        device = self.policy.hardware.device
        ids, attention = left_pad(prompts, self.policy.tokenizer.pad_token_id, device)
        cache = DynamicCache(config=self.policy.model.config)
        tokens: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        finished = [False] * len(prompts)
        rows = torch.arange(len(prompts), device=device)
        positions = (attention.long().cumsum(1) - 1).clamp(min=0)
        for step in range(settings.max_new_tokens):
            with self.policy.hardware.autocast():
                logits_BV = self.policy.model(
                    input_ids=ids,
                    attention_mask=attention.long(),
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
            chosen_B, logprobs_B = sample_tokens(logits_BV, settings, generator)
            ended_B = torch.isin(chosen_B, self.stop_ids)
            for row, token, logprob, ended in zip(rows.tolist(), chosen_B.tolist(), logprobs_B.tolist(), ended_B.tolist(), strict=True):
                if not finished[row]:
                    tokens[row].append(token)
                    logprobs[row].append(logprob)
                    finished[row] = ended
            alive = [i for i, row in enumerate(rows.tolist()) if not finished[row]]
            if not alive or step + 1 == settings.max_new_tokens:
                break
            attention = torch.cat([attention, torch.ones_like(attention[:, :1])], dim=1)
            positions, ids = positions[:, -1:] + 1, chosen_B.unsqueeze(1)
            if len(alive) <= 0.8 * len(rows):  # moving the cache costs about a step, so wait until it pays
                keep = torch.tensor(alive, device=device)
                cache.batch_select_indices(keep)
                ids, positions, attention, rows = ids[keep], positions[keep], attention[keep], rows[keep]
        return [Response(tuple(t), tuple(lp), f) for t, lp, f in zip(tokens, logprobs, finished, strict=True)]


def sample_tokens(logits_BV: Tensor, settings: SamplingSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A token for each row and its log-probability under the tempered, untruncated distribution, both (B,).

    Raises NonFiniteError if a row has no usable logits.
    """
    logprobs_BV = torch.log_softmax(logits_BV.float() / settings.temperature, dim=-1)
    if not bool(torch.isfinite(logprobs_BV).any(dim=-1).all()) or bool(logprobs_BV.isnan().any()):
        raise NonFiniteError("the policy's logits are NaN while sampling; the model is damaged: go back to an earlier checkpoint")
    probabilities_BV = truncate(logprobs_BV, top_p=settings.top_p, top_k=settings.top_k).exp()
    # Exponential races: argmax p / e is a draw from p, and one pass over the vocabulary.
    noise_BV = torch.empty_like(probabilities_BV).exponential_(generator=generator)
    chosen_B = (probabilities_BV / noise_BV).argmax(dim=-1)
    return chosen_B, logprobs_BV.gather(1, chosen_B.unsqueeze(1)).squeeze(1)


def truncate(logprobs_BV: Tensor, *, top_p: float, top_k: int) -> Tensor:
    """Log-probabilities with everything outside the nucleus of mass `top_p` and the `top_k` likeliest set to -inf, (B, V)."""
    if top_k:
        kth = logprobs_BV.topk(min(top_k, logprobs_BV.shape[1]), dim=-1).values[:, -1:]
        logprobs_BV = logprobs_BV.masked_fill(logprobs_BV < kth, -torch.inf)
    if top_p < 1:
        ordered, index = logprobs_BV.softmax(-1).sort(dim=-1, descending=True)
        outside = (ordered.cumsum(-1) - ordered) >= top_p  # the token that crosses top_p stays in
        logprobs_BV = logprobs_BV.masked_fill(outside.scatter(1, index, outside), -torch.inf)
    return logprobs_BV


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    """Ids and attention mask (bool), (B, T), padded on the left."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    attention = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows], device=device)
    return ids, attention

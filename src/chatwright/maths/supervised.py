"""Supervised fine-tuning: the answer-only negative log-likelihood."""

from __future__ import annotations

from torch import Tensor

from chatwright.maths.tensors import token_logprobs


def negative_log_likelihood(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """-log p(target) of each answer token, (N,), nats, float32.

    The caller passes only the positions where the loss counts ("we zero-out the loss on tokens from the user prompt") and divides the sum
    by the answer tokens of the whole batch. Source: Llama 2, section 3.1.
    """
    return -token_logprobs(logits_NV, targets_N)

"""Log-probabilities, masked sums and whitening: what every loss is made of.

Shapes: B responses, T token positions, V vocabulary, N tokens of any arrangement. A mask is bool, True = counts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shift(ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Targets and their mask, each (B, T - 1): position t predicts token t + 1. The one place where tokens are shifted.

    `mask_BT` marks tokens; the result marks the positions that predict a marked token.
    """
    return ids_BT[:, 1:], mask_BT[:, 1:]


def token_logprobs(logits_NV: Tensor, targets_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at the targets, (N,), nats, in float32 whatever the logits' precision.

    The same temperature must serve rollout, reference and update, or the policy learns from ratios that never were 1.
    """
    return torch.log_softmax(logits_NV.float() / temperature, dim=-1).gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)


def entropy(logits_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """-sum p log p of each row, (N,), nats, float32."""
    logprobs_NV = torch.log_softmax(logits_NV.float() / temperature, dim=-1)
    return -(logprobs_NV.exp() * logprobs_NV).sum(-1)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of the values that count, a scalar in float32. Values under the mask may be anything, NaN included."""
    check_same_shape(values=values, mask=mask)
    return torch.where(mask, values.float(), 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values that count. Raises ValueError if none does."""
    if not bool(mask.any()):
        raise ValueError("masked_mean: nothing counts; expected at least one True in the mask")
    return masked_sum(values, mask) / mask.sum()


def global_mean(values: Tensor, mask: Tensor, *, total_count: int | float) -> Tensor:
    """Sum of the values that count divided by the count of the *whole* batch.

    A batch split into micro-batches (or over ranks) then gives, added up, exactly the loss and gradient of the batch in one piece;
    a mean of means does not.
    """
    return masked_sum(values, mask) / total_count


def whiten(values: Tensor, mask: Tensor | None = None, *, eps: float = 1e-8) -> Tensor:
    """(values - mean) / standard deviation over everything that counts, float32; the mean really is subtracted.

    Statistics are those of the whole batch given (population variance). Values that do not count come back as 0.
    Raises ValueError if nothing counts. Source: Llama 2, section 3.2.3 ("whiten the final linear scores").
    """
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    values = values.float()
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + eps), 0.0)


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError that names the shapes if they differ: [B, 1] - [B] would silently become [B, B]."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes differ: {shapes}; expected one shape")

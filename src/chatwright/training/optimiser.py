"""AdamW, its schedule, and the one place where weights change: `take_step`, after `clip_and_check`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from chatwright.errors import NonFiniteError
from chatwright.recipe import OptimiserSettings


def make_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """AdamW over what learns; weight decay on matrices only, not on norms, biases and scalar heads."""
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in learning if p.ndim >= 2 and p.shape[0] > 1]
    others = [p for n, p in learning if p.ndim < 2 or p.shape[0] == 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True
    )


def learning_rate_at(step: int, total_steps: int, settings: OptimiserSettings) -> float:
    """Learning rate of a step (from 0): linear warm-up, then constant or cosine down to `final_share` of the maximum."""
    warmup = max(settings.warmup_min_steps, math.ceil(settings.warmup_share * total_steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, total_steps - warmup)
    share = settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * share


def optimiser_step(
    optimiser: torch.optim.Optimizer,
    model: nn.Module,
    loss: Tensor | float,
    *,
    learning_rate: float,
    max_grad_norm: float,
    ids: Sequence[str],
) -> float:
    """Clip, check, step, clear; returns the gradient norm before clipping. Raises what `clip_and_check` raises."""
    norm = clip_and_check(model, loss, max_grad_norm=max_grad_norm, ids=ids)
    take_step(optimiser, learning_rate=learning_rate)
    return norm


def clip_and_check(model: nn.Module, loss: Tensor | float, *, max_grad_norm: float, ids: Sequence[str]) -> float:
    """Clip the gradient; returns its norm before that.

    Raises NonFiniteError, before any weight changes, if the loss or a gradient is not finite; `ids` are the batch's examples.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(_learning(model.parameters()), max_grad_norm))
    loss = float(loss)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        raise NonFiniteError(
            f"loss {loss}, gradient norm {norm} on the batch [{shown}]; weights are as before this step. "
            "Look at these rows, or lower the learning rate, then run the same command to go on from the last checkpoint"
        )
    return norm


def take_step(optimiser: torch.optim.Optimizer, *, learning_rate: float) -> None:
    """Change the weights, then clear the gradient."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _learning(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]

"""Proximal policy optimisation: advantages, policy loss, value loss. PPO is here.

Shapes: B responses, T token positions. Masks bool, True = a response token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatwright.maths.tensors import check_same_shape, masked_mean


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each (B, T), zero off the mask.

    delta_t = r_t + gamma V_{t+1} - V_t ;  A_t = delta_t + gamma lam A_{t+1} ;  return_t = A_t + V_t
    with V = 0 after the last response token (an episode ends there, cut off or not: no bootstrap). Tokens off the mask neither contribute
    nor leak. Source: Schulman et al. 2016; gamma and lambda from Ziegler et al. 2019 (the Llama 2 paper gives none).
    """
    check_same_shape(rewards=rewards_BT, values=values_BT, mask=mask_BT)
    rewards_BT, values_BT = (torch.where(mask_BT, x.float(), 0.0) for x in (rewards_BT, values_BT))
    advantage_B = torch.zeros_like(values_BT[:, 0])
    next_value_B = torch.zeros_like(advantage_B)
    advantages_BT = torch.zeros_like(values_BT)
    for t in reversed(range(mask_BT.shape[1])):
        here_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = torch.where(here_B, delta_B + gamma * lam * advantage_B, advantage_B)
        next_value_B = torch.where(here_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = torch.where(here_B, advantage_B, 0.0)
    return advantages_BT, torch.where(mask_BT, advantages_BT + values_BT, 0.0)


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float = 0.2) -> Tensor:
    """-min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A) of each token, same shape, where ratio = exp(logprobs - old_logprobs).

    Source: Schulman et al. 2017, equation 7; clip 0.2 as in Llama 2, section 3.2.3.
    """
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = torch.exp(logprobs - old_logprobs)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped(logprobs: Tensor, old_logprobs: Tensor, *, clip: float = 0.2) -> Tensor:
    """True where the ratio left [1 - clip, 1 + clip]; its mean is the clip fraction."""
    return (torch.exp(logprobs - old_logprobs) - 1).abs() > clip


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2) -> Tensor:
    """0.5 max((V - R)^2, (V_clipped - R)^2) of each token, V_clipped within `clip` of the value at rollout time.

    Source: Huang et al. 2024, "The N implementation details of RLHF with PPO".
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    clipped_values = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped_values - returns) ** 2)


def importance_weights(trainer_logprobs: Tensor, rollout_logprobs: Tensor, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """clamp(exp(trainer - rollout), low, high) of each token: corrects for another engine's sampling. Carries no gradient."""
    return torch.exp((trainer_logprobs - rollout_logprobs).detach()).clamp(low, high)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 perfect, 0 no better than a constant. NaN if returns are constant."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    return 1 - variance(returns - values) / variance(returns)

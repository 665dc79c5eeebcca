"""From two reward models' scores to the per-token reward that PPO maximises; best-of-K selection; KL estimators.

Shapes: B responses, T token positions, P prompts, K answers a prompt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chatwright.maths.tensors import check_same_shape, whiten

SAFETY_THRESHOLD = 0.15
"""Below this probability of being safe the safety model decides (Llama 2, section 3.2.3: precision 0.89, recall 0.55)."""


def gated_logit(helpfulness_B: Tensor, safety_B: Tensor, is_safety_prompt_B: Tensor, *, threshold: float = SAFETY_THRESHOLD) -> Tensor:
    """logit(Rc): the safety score where the prompt is a safety prompt or sigmoid(safety) < threshold, else the helpfulness score.

    All (B,); scores are raw scalars, so logit(sigmoid(score)) is the score itself and nothing is lost to saturation.
    Source: Llama 2, section 3.2.3.
    """
    check_same_shape(helpfulness=helpfulness_B, safety=safety_B, is_safety_prompt=is_safety_prompt_B)
    return torch.where(safety_gate(safety_B, is_safety_prompt_B, threshold=threshold), safety_B.float(), helpfulness_B.float())


def safety_gate(safety_B: Tensor, is_safety_prompt_B: Tensor, *, threshold: float = SAFETY_THRESHOLD) -> Tensor:
    """True where the safety model decides, (B,) bool."""
    return is_safety_prompt_B | (torch.sigmoid(safety_B.float()) < threshold)


def whitened_reward(gated_logit_B: Tensor) -> Tensor:
    """R~c = whiten(logit(Rc)) over the whole batch, (B,): mean 0, variance 1, to balance against the KL term (section 3.2.3)."""
    return whiten(gated_logit_B)


def kl_k1(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log pi - log pi_ref of each sampled token, nats: unbiased, may be negative. What PPO is penalised with, unclipped."""
    return policy_logprobs - reference_logprobs


def kl_k3(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """exp(-d) - 1 + d with d = log pi - log pi_ref, nats: unbiased and never negative. Logged beside k1. Source: Schulman 2020."""
    difference = policy_logprobs - reference_logprobs
    return torch.expm1(-difference) + difference


def token_rewards(scores_B: Tensor, policy_logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, *, beta: float) -> Tensor:
    """-beta * (log pi - log pi_ref) on each response token, plus the score on the last one, (B, T), zero elsewhere.

    The score is never clipped together with the KL. `beta` in score units a nat. Every row of `mask_BT` must mark at least one token.
    Source: Llama 2, section 3.2.3 (R(g|p) = R~c(g|p) - beta KL), spread over tokens as in Ziegler et al. 2019.
    """
    check_same_shape(policy=policy_logprobs_BT, reference=reference_logprobs_BT, mask=mask_BT)
    assert bool(mask_BT.any(dim=1).all()), "a response without a token"
    penalty_BT = torch.where(mask_BT, -beta * kl_k1(policy_logprobs_BT, reference_logprobs_BT), 0.0)
    positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = torch.where(mask_BT, positions_T, -1).amax(dim=1)
    return penalty_BT.scatter_add(1, last_B.unsqueeze(1), scores_B.to(penalty_BT.dtype).unsqueeze(1))


def best_of_k(rewards_PK: Tensor) -> Tensor:
    """Index of the best answer of each prompt, (P,); the first among equals. Source: Llama 2, section 3.2.3 (rejection sampling)."""
    best_P = rewards_PK.amax(dim=1, keepdim=True)
    return (rewards_PK == best_P).int().argmax(dim=1)


def best_of_k_kl(k: int) -> float:
    """KL of best-of-K from the sampling policy in nats: ln K - (K - 1) / K; an upper bound where rewards tie (Gao et al. 2022)."""
    return math.log(k) - (k - 1) / k

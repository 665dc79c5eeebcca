"""One iteration of PPO: score the rollouts, turn scores into advantages, update policy and critic. The maths is in `maths.ppo`.

Shapes: R rollouts of an iteration, B rows of a micro-batch, T token positions (shifted: position t predicts token t + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatwright.dialogue import Tokens
from chatwright.maths.ppo import clipped, explained_variance, gae, policy_loss, value_loss
from chatwright.maths.reward import gated_logit, kl_k1, kl_k3, safety_gate, token_rewards, whitened_reward
from chatwright.maths.tensors import global_mean, masked_mean, shift, whiten
from chatwright.models.language_model import LanguageModel
from chatwright.models.reward_model import RewardModel
from chatwright.recipe import PpoSettings
from chatwright.training.batches import Batch, collate, micro_batches
from chatwright.training.optimiser import clip_and_check, learning_rate_at, take_step
from chatwright.training.preference import score_rows


@dataclass(slots=True)
class Experience:
    """A micro-batch of rollouts with all that the update needs. (B, T) throughout, aligned with `mask`."""

    batch: Batch
    rows: list[int]
    mask: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    returns: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True, slots=True)
class Scores:
    """Both models' scores of each rollout and the gated one, (R,), before whitening; `gate` is True where the safety model decided."""

    helpfulness: Tensor
    safety: Tensor
    gated: Tensor
    gate: Tensor


def score_rollouts(
    helpfulness: RewardModel,
    safety: RewardModel,
    rows: Sequence[Tokens],
    is_safety_prompt: Sequence[bool],
    *,
    threshold: float,
    micro_batch_tokens: int,
) -> Scores:
    """The gated score of each rollout (Llama 2, section 3.2.3), from the very tokens that were sampled."""
    h, s = (score_rows(model, rows, micro_batch_tokens) for model in (helpfulness, safety))
    flags = torch.tensor(list(is_safety_prompt))
    return Scores(h, s, gated_logit(h, s, flags, threshold=threshold), safety_gate(s, flags, threshold=threshold))


@torch.no_grad()
def gather_experience(
    policy: LanguageModel,
    reference: LanguageModel | None,
    critic: RewardModel,
    rows: Sequence[Tokens],
    order: Sequence[int],
    settings: PpoSettings,
) -> list[list[Experience]]:
    """Mini-batches, each a list of micro-batches, with log-probabilities recomputed by the trainer.

    The composition of each micro-batch is fixed here and kept for the update, so the first ratio of an iteration is exactly 1.
    `reference` None means the policy without its adapter.
    """
    mini_batches = []
    for start in range(0, len(order), settings.mini_batch):
        chosen = order[start : start + settings.mini_batch]
        groups = micro_batches([len(rows[i]) for i in chosen], settings.micro_batch_tokens)
        mini_batches.append([_experience(policy, reference, critic, rows, [chosen[i] for i in group], settings) for group in groups])
    return mini_batches


def _experience(
    policy: LanguageModel,
    reference: LanguageModel | None,
    critic: RewardModel,
    rows: Sequence[Tokens],
    group: list[int],
    settings: PpoSettings,
) -> Experience:
    batch = collate([rows[i] for i in group], policy.tokenizer.pad_token_id, policy.hardware.device)
    old = policy.logprobs(batch.ids, batch.attention, batch.response, temperature=settings.sampling.temperature)
    reference_logprobs = reference_logprobs_of(policy, reference, batch, temperature=settings.sampling.temperature)
    values = critic.values(batch.ids, batch.attention)[:, :-1]
    return Experience(batch, group, shift(batch.ids, batch.response)[1], old, reference_logprobs, values)


def reference_logprobs_of(policy: LanguageModel, reference: LanguageModel | None, batch: Batch, *, temperature: float) -> Tensor:
    """Log-probabilities under the model PPO started from, (B, T): its own copy, or in LoRA mode the policy without its adapter."""
    if reference is not None:
        return reference.logprobs(batch.ids, batch.attention, batch.response, temperature=temperature)
    with policy.as_reference():
        return policy.logprobs(batch.ids, batch.attention, batch.response, temperature=temperature)


def estimate_advantages(
    mini_batches: Sequence[Sequence[Experience]], scores: Scores, finished: Sequence[bool], settings: PpoSettings
) -> None:
    """Fill in returns and advantages.

    Scores are whitened over the whole iteration (the paper's R~c); a cut-off answer's score is then replaced if the recipe says so; the
    KL penalty is added per token; advantages are whitened over all tokens of the iteration, after the returns.
    """
    scores_R = whitened_reward(scores.gated)
    if settings.no_end == "penalise":
        scores_R = torch.where(torch.tensor(list(finished)), scores_R, settings.no_end_score)
    flat = [e for mini_batch in mini_batches for e in mini_batch]
    for e in flat:
        scores_B = scores_R[e.rows].to(e.mask.device)
        rewards = token_rewards(scores_B, e.old_logprobs, e.reference_logprobs, e.mask, beta=settings.beta)
        e.advantages, e.returns = gae(rewards, e.old_values, e.mask, gamma=settings.gamma, lam=settings.lam)
    whitened = whiten(torch.cat([e.advantages[e.mask] for e in flat]))
    for e, part in zip(flat, whitened.split([int(e.mask.sum()) for e in flat]), strict=True):
        e.advantages = torch.zeros_like(e.advantages).masked_scatter(e.mask, part)


def update(
    policy: LanguageModel, critic: RewardModel, policy_optimiser: torch.optim.Optimizer, critic_optimiser: torch.optim.Optimizer,
    mini_batches: Sequence[Sequence[Experience]], settings: PpoSettings, *, iteration: int, ids: Sequence[str],
) -> dict[str, float]:  # fmt: skip
    """One gradient step on policy and critic for each mini-batch and epoch; returns the diagnostics of the iteration."""
    policy_rate = learning_rate_at(iteration, settings.iterations, settings.optimiser)
    critic_rate = learning_rate_at(iteration, settings.iterations, settings.critic_optimiser)
    train_policy = iteration >= settings.critic_warmup
    totals: dict[str, float] = {}
    log_ratio_max = 0.0
    for _ in range(settings.epochs):
        for mini_batch in mini_batches:
            num_tokens = int(sum(e.mask.sum() for e in mini_batch))
            names = [ids[i] for e in mini_batch for i in e.rows]
            sums = [_accumulate(policy, critic, e, settings, num_tokens, train_policy=train_policy) for e in mini_batch]
            means = {key: sum(s[key] for s in sums) for key in sums[0] if key != "log_ratio_max"}
            log_ratio_max = max(log_ratio_max, *(s["log_ratio_max"] for s in sums))
            if train_policy:
                means["policy_grad_norm"] = clip_and_check(
                    policy.model, means["policy_loss"], max_grad_norm=settings.optimiser.max_grad_norm, ids=names
                )
            means["value_grad_norm"] = clip_and_check(
                critic.model, means["value_loss"], max_grad_norm=settings.critic_optimiser.max_grad_norm, ids=names
            )
            if train_policy:  # both checks stand before either step
                take_step(policy_optimiser, learning_rate=policy_rate)
            take_step(critic_optimiser, learning_rate=critic_rate)
            for key, value in means.items():
                totals[key] = totals.get(key, 0.0) + value
    steps = settings.epochs * len(mini_batches)
    return {key: value / steps for key, value in totals.items()} | {"log_ratio_max": log_ratio_max}


def _accumulate(
    policy: LanguageModel, critic: RewardModel, e: Experience, settings: PpoSettings, num_tokens: int, *, train_policy: bool
) -> dict[str, float]:
    """Add this micro-batch's share of the mini-batch gradient; returns its shares of the means (sum over its tokens / all tokens)."""
    with torch.set_grad_enabled(train_policy):
        logprobs, entropies = policy.logprobs_and_entropy(
            e.batch.ids, e.batch.attention, e.batch.response, temperature=settings.sampling.temperature
        )
        loss = global_mean(policy_loss(logprobs, e.old_logprobs, e.advantages, clip=settings.clip), e.mask, total_count=num_tokens)
    if train_policy:
        loss.backward()
    values = critic.values(e.batch.ids, e.batch.attention)[:, :-1]
    critic_loss = global_mean(value_loss(values, e.old_values, e.returns, clip=settings.value_clip), e.mask, total_count=num_tokens)
    critic_loss.backward()
    with torch.no_grad():
        log_ratio = torch.where(e.mask, logprobs - e.old_logprobs, 0.0)
        share = {
            "approx_kl": 0.5 * log_ratio**2,
            "clip_fraction": clipped(logprobs, e.old_logprobs, clip=settings.clip).float(),
            "value_clip_fraction": ((values - e.old_values).abs() > settings.value_clip).float(),
            "entropy": entropies,
        }
        means = {key: global_mean(value, e.mask, total_count=num_tokens).item() for key, value in share.items()}
    return means | {"policy_loss": loss.item(), "value_loss": critic_loss.item(), "log_ratio_max": float(log_ratio.abs().max())}


@torch.no_grad()
def mean_kl(
    policy: LanguageModel, reference: LanguageModel | None, rows: Sequence[Tokens], *, temperature: float, micro_batch_tokens: int
) -> float:
    """KL(policy || reference) in nats an answer: the k1 estimator over tokens the policy sampled, averaged over answers."""
    total = 0.0
    for group in micro_batches([len(r) for r in rows], micro_batch_tokens):
        batch = collate([rows[i] for i in group], policy.tokenizer.pad_token_id, policy.hardware.device)
        ours = policy.logprobs(batch.ids, batch.attention, batch.response, temperature=temperature)
        total += float(kl_k1(ours, reference_logprobs_of(policy, reference, batch, temperature=temperature)).sum())
    return total / len(rows)


def rollout_metrics(mini_batches: Sequence[Sequence[Experience]], scores: Scores, finished: Sequence[bool]) -> dict[str, float]:
    """What the iteration's rollouts look like. KL (nats an answer), length and cut-off share always stand beside the score."""
    flat = [e for mini_batch in mini_batches for e in mini_batch]
    policy_N, reference_N, values_N, returns_N = (
        torch.cat([getattr(e, name)[e.mask] for e in flat]) for name in ("old_logprobs", "reference_logprobs", "old_values", "returns")
    )
    num = len(finished)
    everything = torch.ones_like(returns_N, dtype=torch.bool)
    ungated = ~scores.gate
    return {
        "reward": float(scores.gated.mean()),
        "reward_std": float(scores.gated.std(unbiased=False)),
        "helpfulness_score": float(masked_mean(scores.helpfulness, ungated)) if ungated.any() else float("nan"),
        "safety_score": float(masked_mean(scores.safety, scores.gate)) if scores.gate.any() else float("nan"),
        "safety_gate_share": float(scores.gate.float().mean()),
        "kl": float(kl_k1(policy_N, reference_N).sum()) / num,
        "kl_k3": float(kl_k3(policy_N, reference_N).sum()) / num,
        "response_tokens": len(policy_N) / num,
        "cut_off_share": 1 - sum(finished) / num,
        "explained_variance": float(explained_variance(values_N, returns_N, everything)),
    }

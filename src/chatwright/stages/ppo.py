"""PPO against both reward models (Llama 2, section 3.2.3). One iteration reads top to bottom in `_iterate`; its maths is in `maths.ppo`."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatwright.artifact import Manifest, Request, stage_folder, write_atomic
from chatwright.dialogue import Prompt, Tokens, render_prompt
from chatwright.errors import DataError
from chatwright.models.language_model import (
    LanguageModel,
    check_same_tokenizer,
    load_language_model,
    load_trainable_state,
    trainable_state,
)
from chatwright.models.reward_model import RewardModel, load_reward_model
from chatwright.recipe import ModelSettings, PpoSettings
from chatwright.rollout.base import Response
from chatwright.rollout.torch import TorchRollouts
from chatwright.seeds import derive_seed
from chatwright.sources import read_prompts
from chatwright.training.batches import prompt_and_response, stream_indices
from chatwright.training.checkpoint import load_checkpoint, save_checkpoint
from chatwright.training.metrics import MetricsLog
from chatwright.training.optimiser import make_optimiser
from chatwright.training.ppo import Scores, estimate_advantages, gather_experience, mean_kl, rollout_metrics, score_rollouts, update
from chatwright.training.progress import progress


@dataclass(frozen=True, slots=True)
class PpoInputs:
    """`policy` is where PPO starts and its reference; `validation_prompts` are held out from `prompts`."""

    policy: str | Path
    helpfulness: str | Path
    safety: str | Path
    prompts: str | Path
    validation_prompts: str | Path


@dataclass(slots=True)
class _Models:
    policy: LanguageModel
    reference: LanguageModel | None
    critic: RewardModel
    helpfulness: RewardModel
    safety: RewardModel


@dataclass(slots=True)
class _Watch:
    """Early stopping: held-out reward in units of the starting policy (its gated scores have mean 0, deviation 1), KL subtracted."""

    mean: float = 0.0
    std: float = 1.0
    best: float = float("-inf")
    best_iteration: int = 0
    looks_since_best: int = 0
    stop: str = ""


def run(
    settings: PpoSettings, inputs: PpoInputs, output: Path, *, model: ModelSettings, seed: int, trackers: Sequence[str] = ()
) -> Manifest:
    """Run PPO until the iterations are done or the held-out reward stops rising; seal the best policy seen, by held-out reward."""
    named = {
        "policy": inputs.policy, "helpfulness": inputs.helpfulness, "safety": inputs.safety, "prompts": inputs.prompts,
        "validation_prompts": inputs.validation_prompts,
    }  # fmt: skip
    request = Request.of("policy", named, {"stage": "ppo", "ppo": settings.model_dump(), "model": model.identity()}, seed)
    with stage_folder(output, request) as space:
        if isinstance(space, Manifest):
            return space
        prompts, validation = read_prompts(inputs.prompts), read_prompts(inputs.validation_prompts)
        if overlap := {p.messages for p in prompts} & {p.messages for p in validation}:
            raise DataError(
                f"{len(overlap)} validation prompts are training prompts too ({next(iter(overlap))[-1].content!r}); expected none"
            )
        models = _load(inputs, model)
        with MetricsLog(output / "metrics.jsonl", trackers, run_name="ppo", settings=request.settings) as metrics:
            watch, done = _train(models, prompts, validation, settings, seed=derive_seed(seed, "ppo"), work=space.work, metrics=metrics)
        models.policy.save(output)
        summary = {"stopped": watch.stop or "all iterations done", "best_iteration": watch.best_iteration, "held_out_reward": watch.best}
        write_atomic(output / "ppo.json", json.dumps(summary, indent=1) + "\n")
        return space.seal(counts={"iterations": done, "rollouts": done * settings.rollouts}, metrics=summary)


def _load(inputs: PpoInputs, model: ModelSettings) -> _Models:
    policy = load_language_model(inputs.policy, model, train=True)
    reference = None
    if policy.adapter is None:
        reference = LanguageModel(
            copy.deepcopy(policy.model).eval().requires_grad_(False), policy.tokenizer, policy.hardware, None, policy.plain_head
        )
    helpfulness, safety = load_reward_model(inputs.helpfulness, model), load_reward_model(inputs.safety, model)
    for reward_model, path in ((helpfulness, inputs.helpfulness), (safety, inputs.safety)):
        check_same_tokenizer(policy.tokenizer, reward_model.tokenizer, f"reward model {path}")
    critic = load_reward_model(inputs.helpfulness, model, train=True)
    return _Models(policy, reference, critic, helpfulness, safety)


def _train(
    models: _Models,
    prompts: Sequence[Prompt],
    validation: Sequence[Prompt],
    settings: PpoSettings,
    *,
    seed: int,
    work: Path,
    metrics: MetricsLog,
) -> tuple[_Watch, int]:
    """Iterate from the checkpoint in `work`, if any; leaves the best weights in the policy. Returns the watch and the iterations done."""
    policy_optimiser = make_optimiser(models.policy.model, settings.optimiser)
    critic_optimiser = make_optimiser(models.critic.model, settings.critic_optimiser)
    watch, start = _Watch(), 0
    best = {name: t.clone() for name, t in trainable_state(models.policy.model).items()}
    state = load_checkpoint(work)
    if state:
        start, watch, best = state["step"], _Watch(**state["watch"]), state["best"]
        load_trainable_state(models.policy.model, state["policy"])
        load_trainable_state(models.critic.model, state["critic"])
        policy_optimiser.load_state_dict(state["policy_optimiser"])
        critic_optimiser.load_state_dict(state["critic_optimiser"])
    metrics.truncate_after(start if state else -1)  # without a checkpoint the first look, step 0, is taken again too
    done = start
    with progress("PPO", total=settings.iterations, unit="iterations", done=start) as bar:
        if start == 0:
            metrics.log(0, "validation", **_look(models, validation, settings, watch, 0, seed))
        for iteration in range(start, settings.iterations):
            if watch.stop:
                break
            values = _iterate(models, policy_optimiser, critic_optimiser, prompts, settings, iteration, seed)
            done = iteration + 1
            metrics.log(done, "train", **values)
            if settings.max_kl is not None and values["kl"] > settings.max_kl:
                watch.stop = f"KL {values['kl']:.2f} passed max_kl {settings.max_kl}"
            last = done == settings.iterations or bool(watch.stop)
            if done % settings.validate_every == 0 or last:
                looked = _look(models, validation, settings, watch, done, seed)
                metrics.log(done, "validation", **looked)
                if looked["kept"]:
                    best = {name: t.clone() for name, t in trainable_state(models.policy.model).items()}
                elif watch.looks_since_best >= settings.patience and not watch.stop:
                    watch.stop = f"held-out reward has not risen for {settings.patience} looks"
            if done % settings.checkpoint_every == 0 or last or watch.stop:
                state = {
                    "policy": trainable_state(models.policy.model), "critic": trainable_state(models.critic.model), "best": best,
                    "policy_optimiser": policy_optimiser.state_dict(), "critic_optimiser": critic_optimiser.state_dict(),
                    "watch": {name: getattr(watch, name) for name in _Watch.__slots__},
                }  # fmt: skip
                save_checkpoint(work, done, state)
            bar.advance(1, reward=values["reward"], kl=values["kl"], tokens=values["response_tokens"])
    load_trainable_state(models.policy.model, best)
    return watch, done


def _iterate(
    models: _Models,
    policy_optimiser: Any,
    critic_optimiser: Any,
    prompts: Sequence[Prompt],
    settings: PpoSettings,
    iteration: int,
    seed: int,
) -> dict[str, float]:
    """Roll out, score, estimate advantages, update. Every draw derives from (seed, iteration), so a resumed run repeats it exactly."""
    chosen = [prompts[i] for i in stream_indices(len(prompts), iteration * settings.rollouts, settings.rollouts, seed)]
    responses, rows = _roll_out(models.policy, chosen, settings, derive_seed(seed, "rollout", iteration))
    scores = _score(models, rows, chosen, settings)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(derive_seed(seed, "order", iteration))).tolist()
    mini_batches = gather_experience(models.policy, models.reference, models.critic, rows, order, settings)
    finished = [r.finished for r in responses]
    estimate_advantages(mini_batches, scores, finished, settings)
    values = rollout_metrics(mini_batches, scores, finished)
    ids = [p.id for p in chosen]
    return values | update(
        models.policy, models.critic, policy_optimiser, critic_optimiser, mini_batches, settings, iteration=iteration, ids=ids
    )


def _roll_out(policy: LanguageModel, prompts: Sequence[Prompt], settings: PpoSettings, seed: int) -> tuple[list[Response], list[Tokens]]:
    rendered = [render_prompt(policy.tokenizer, p.messages) for p in prompts]
    responses = TorchRollouts(policy).sample(rendered, settings.sampling, seed=seed)
    return responses, [prompt_and_response(ids, r.token_ids) for ids, r in zip(rendered, responses, strict=True)]


def _score(models: _Models, rows: Sequence[Tokens], prompts: Sequence[Prompt], settings: PpoSettings) -> Scores:
    flags = [p.is_safety for p in prompts]
    return score_rollouts(
        models.helpfulness, models.safety, rows, flags, threshold=settings.threshold, micro_batch_tokens=settings.micro_batch_tokens
    )


@torch.no_grad()
def _look(models: _Models, validation: Sequence[Prompt], settings: PpoSettings, watch: _Watch, iteration: int, seed: int) -> dict[str, Any]:
    """Held-out reward now; updates the watch. `kept` says that this is the best policy so far."""
    responses, rows = _roll_out(models.policy, validation, settings, derive_seed(seed, "validation"))
    scores = _score(models, rows, validation, settings)
    gated = scores.gated
    if iteration == 0:
        watch.mean, watch.std = float(gated.mean()), float(gated.std(unbiased=False)) or 1.0
    whitened = (gated - watch.mean) / watch.std
    finished = torch.tensor([r.finished for r in responses])
    if settings.no_end == "penalise":
        whitened = torch.where(finished, whitened, settings.no_end_score)
    temperature, budget = settings.sampling.temperature, settings.micro_batch_tokens
    kl = mean_kl(models.policy, models.reference, rows, temperature=temperature, micro_batch_tokens=budget)
    reward = float(whitened.mean()) - settings.beta * kl
    kept = reward > watch.best
    if kept:
        watch.best, watch.best_iteration, watch.looks_since_best = reward, iteration, 0
    else:
        watch.looks_since_best += 1
    tokens = sum(len(r.token_ids) for r in responses) / len(responses)
    cut_off = 1 - float(finished.float().mean())
    return {"reward": reward, "score": float(gated.mean()), "kl": kl, "response_tokens": tokens, "cut_off_share": cut_off, "kept": kept}

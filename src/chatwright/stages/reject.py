"""Rejection sampling: the best of K answers to each prompt, then fine-tuning from the base model on them (Llama 2, section 3.2.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatwright.artifact import Manifest, Request, stage_folder
from chatwright.dialogue import Dialogue, Message, Prompt, Tokens, messages_to_json, render_prompt, tokenizer_fingerprint
from chatwright.errors import DataError
from chatwright.maths.reward import best_of_k, best_of_k_kl
from chatwright.models.language_model import LanguageModel, check_same_tokenizer, load_language_model
from chatwright.models.reward_model import RewardModel, load_reward_model
from chatwright.recipe import ModelSettings, RejectSettings
from chatwright.rollout.torch import TorchRollouts
from chatwright.rows import write_jsonl
from chatwright.seeds import derive_seed
from chatwright.sources import read_dialogues, read_prompts
from chatwright.training.batches import prompt_and_response
from chatwright.training.metrics import MetricsLog
from chatwright.training.ppo import score_rollouts
from chatwright.training.progress import progress
from chatwright.training.supervised import train_supervised


@dataclass(frozen=True, slots=True)
class RejectInputs:
    """`policy` samples, `base` is what fine-tuning starts from, `helpfulness` and `safety` are reward models."""

    policy: str | Path
    base: str | Path
    helpfulness: str | Path
    safety: str | Path
    prompts: str | Path
    dialogues: Sequence[str | Path]


def run(
    settings: RejectSettings, inputs: RejectInputs, output: Path, *, model: ModelSettings, seed: int, trackers: Sequence[str] = ()
) -> Manifest:
    """Sample, score, keep the best in pool.jsonl with all scores, fine-tune the base model on SFT data and pool, seal `output`."""
    named = {
        "policy": inputs.policy, "base": inputs.base, "helpfulness": inputs.helpfulness, "safety": inputs.safety, "prompts": inputs.prompts,
        **{f"dialogues-{i}": path for i, path in enumerate(inputs.dialogues)},
    }  # fmt: skip
    request = Request.of("policy", named, {"stage": "reject", "reject": settings.model_dump(), "model": model.identity()}, seed)
    with stage_folder(output, request) as space:
        if isinstance(space, Manifest):
            return space
        pool = _sample_pool(settings, inputs, model, space.work, seed)
        write_jsonl(output / "pool.jsonl", pool)
        kept = sorted((row for row in pool if row["token_ids"]), key=lambda row: -row["score"])
        if not kept:
            raise DataError(
                f"none of {len(pool)} prompts has an answer that ended within reject.sampling.max_new_tokens="
                f"{settings.sampling.max_new_tokens}; raise it, or fine-tune the sampling policy until its answers end"
            )
        kept = kept[: max(1, round(settings.keep_best * len(kept)))]
        policy = load_language_model(inputs.base, model, train=True)
        own_tokens = all(row["tokenizer"] == tokenizer_fingerprint(policy.tokenizer) for row in kept)
        dialogues = [_pool_dialogue(row, own_tokens=own_tokens) for row in sorted(kept, key=lambda row: row["id"])]
        if settings.include_sft:
            dialogues = [d for source in inputs.dialogues for d in read_dialogues(source)] + dialogues
        with MetricsLog(output / "metrics.jsonl", trackers, run_name="reject", settings=request.settings) as metrics:
            result = train_supervised(
                policy, dialogues, settings.sft, seed=derive_seed(seed, "reject"), folder=output, work=space.work, metrics=metrics,
                title="Fine-tuning on the best",
            )  # fmt: skip
        policy.save(output)
        counts = {
            "prompts": len(pool),
            "answers": settings.k * len(pool),
            "kept": len(kept),
            "without a finished answer": sum(not r["token_ids"] for r in pool),
        }
        gain = [row["score"] - sum(row["all_scores"]) / len(row["all_scores"]) for row in kept]
        metrics_summary = {"mean_gain_of_best": sum(gain) / len(gain), "kl_of_best_of_k": best_of_k_kl(settings.k)}
        return space.seal(counts=counts | result.counts, metrics=metrics_summary | result.metrics)


def _sample_pool(settings: RejectSettings, inputs: RejectInputs, model: ModelSettings, work: Path, seed: int) -> list[dict[str, Any]]:
    """One row a prompt; `chunk` prompts at a time, chunks already in `work` are read instead of sampled again."""
    prompts = read_prompts(inputs.prompts)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(derive_seed(seed, "reject prompts"))).tolist()
    chosen = [prompts[i] for i in order[: settings.num_prompts]]
    loaded: tuple[LanguageModel, RewardModel, RewardModel] | None = None
    pool: list[dict[str, Any]] = []
    with progress(f"Best of {settings.k}", total=len(chosen), unit="prompts") as bar:
        for start in range(0, len(chosen), settings.chunk):
            part = work / f"pool-{start:08d}.jsonl"
            if not part.exists():
                loaded = loaded or _load(inputs, model)
                write_jsonl(
                    part, best_answers(*loaded, chosen[start : start + settings.chunk], settings, seed=derive_seed(seed, "reject", start))
                )
            rows = [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
            pool += rows
            bar.advance(len(rows))
    return pool


def _load(inputs: RejectInputs, model: ModelSettings) -> tuple[LanguageModel, RewardModel, RewardModel]:
    policy = load_language_model(inputs.policy, model)
    helpfulness, safety = load_reward_model(inputs.helpfulness, model), load_reward_model(inputs.safety, model)
    for reward_model, path in ((helpfulness, inputs.helpfulness), (safety, inputs.safety)):
        check_same_tokenizer(policy.tokenizer, reward_model.tokenizer, f"reward model {path}")
    return policy, helpfulness, safety


def best_answers(
    policy: LanguageModel, helpfulness: RewardModel, safety: RewardModel, prompts: Sequence[Prompt], settings: RejectSettings, *, seed: int
) -> list[dict[str, Any]]:
    """K answers to each prompt and the best finished one, as rows of the pool. A prompt with none finished has an empty `token_ids`."""
    rendered = [render_prompt(policy.tokenizer, p.messages) for p in prompts for _ in range(settings.k)]
    responses = TorchRollouts(policy).sample(rendered, settings.sampling, seed=seed)
    rows: list[Tokens] = [prompt_and_response(ids, r.token_ids) for ids, r in zip(rendered, responses, strict=True)]
    safety_flags = [p.is_safety for p in prompts for _ in range(settings.k)]
    scores = score_rollouts(
        helpfulness, safety, rows, safety_flags, threshold=settings.threshold, micro_batch_tokens=settings.sft.micro_batch_tokens
    )
    finished = torch.tensor([r.finished for r in responses]).view(-1, settings.k)
    gated = scores.gated.view(-1, settings.k)
    best = best_of_k(torch.where(finished, gated, -torch.inf)).tolist()
    fingerprint = tokenizer_fingerprint(policy.tokenizer)
    pool = []
    for i, (prompt, k) in enumerate(zip(prompts, best, strict=True)):
        index = i * settings.k + k
        response = responses[index]
        pool.append(
            {
                "id": prompt.id, "tag": prompt.tag, "prompt": messages_to_json(prompt.messages),
                "answer": policy.tokenizer.decode(response.token_ids, skip_special_tokens=True).strip(),
                "token_ids": list(response.token_ids) if response.finished else [], "tokenizer": fingerprint,
                "score": scores.gated[index].item(), "helpfulness": scores.helpfulness[index].item(), "safety": scores.safety[index].item(),
                "all_scores": gated[i].tolist(),
            }
        )  # fmt: skip
    return pool


def _pool_dialogue(row: dict[str, Any], *, own_tokens: bool) -> Dialogue:
    """A kept answer as a dialogue: the sampled tokens themselves, or its text where the base model has another tokenizer."""
    prompt = tuple(Message(m["role"], m["content"]) for m in row["prompt"])
    if not own_tokens and not row["answer"]:
        raise DataError(f"{row['id']}: the kept answer is empty as text; remove it from the pool")
    return Dialogue(
        (*prompt, Message("assistant", row["answer"], tuple(row["token_ids"]) if own_tokens else None)), f"pool:{row['id']}", "pool"
    )

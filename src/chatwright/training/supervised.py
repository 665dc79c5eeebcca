"""Supervised training of a policy on dialogues: SFT, and fine-tuning on rejection samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from chatwright.dialogue import Dialogue, Tokens, render_dialogue, render_prompt
from chatwright.errors import DataError
from chatwright.maths.supervised import negative_log_likelihood
from chatwright.maths.tensors import shift
from chatwright.models.language_model import LanguageModel, load_trainable_state, trainable_state
from chatwright.recipe import SamplingSettings, SftSettings
from chatwright.rollout.torch import TorchRollouts
from chatwright.rows import write_jsonl
from chatwright.seeds import derive_seed
from chatwright.training.batches import Batch, collate, fit_window, micro_batches, step_indices, steps_per_epoch
from chatwright.training.checkpoint import load_checkpoint, save_checkpoint
from chatwright.training.metrics import MetricsLog
from chatwright.training.optimiser import learning_rate_at, make_optimiser, optimiser_step
from chatwright.training.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SupervisedResult:
    """What happened: row counts, and the last losses in nats a token."""

    counts: dict[str, int]
    metrics: dict[str, float | None]


def train_supervised(
    policy: LanguageModel,
    dialogues: Sequence[Dialogue],
    settings: SftSettings,
    *,
    seed: int,
    folder: Path,
    work: Path,
    metrics: MetricsLog,
    title: str,
) -> SupervisedResult:
    """Train `policy` in place on the answers of `dialogues`; goes on from the checkpoint in `work` if there is one.

    Writes samples.jsonl to `folder`. Source: Llama 2, section 3.1 (AdamW, cosine, loss on answer tokens only).
    Raises DataError if a dialogue exceeds the window or none is left, NonFiniteError before a damaged step.
    """
    rows, held_out = _split(policy, dialogues, settings, seed)
    total = settings.epochs * steps_per_epoch(len(rows), settings.batch_size)
    optimiser = make_optimiser(policy.model, settings.optimiser)
    start, samples = 0, []
    loss = validation = None
    if state := load_checkpoint(work):
        start, samples, loss, validation = (state[key] for key in ("step", "samples", "loss", "validation"))
        load_trainable_state(policy.model, state["model"])
        optimiser.load_state_dict(state["optimiser"])
    metrics.truncate_after(start)
    with progress(title, total=total, unit="steps", done=start) as bar:
        for step in range(start, total):
            batch = [rows[i] for i in step_indices(len(rows), settings.batch_size, step, seed)]
            learning_rate = learning_rate_at(step, total, settings.optimiser)
            loss = supervised_gradients(policy, batch, settings.micro_batch_tokens)
            norm = optimiser_step(
                optimiser,
                policy.model,
                loss,
                learning_rate=learning_rate,
                max_grad_norm=settings.optimiser.max_grad_norm,
                ids=[r.id for r in batch],
            )
            metrics.log(step + 1, loss=loss, learning_rate=learning_rate, grad_norm=norm)
            last = step + 1 == total
            if held_out and ((step + 1) % settings.validate_every == 0 or last):
                validation = supervised_loss(policy, held_out, settings.micro_batch_tokens)
                metrics.log(step + 1, "validation", loss=validation)
                samples += _samples(policy, dialogues, settings, step + 1, seed)
            if (step + 1) % settings.checkpoint_every == 0 or last:
                state = {
                    "model": trainable_state(policy.model), "optimiser": optimiser.state_dict(), "samples": samples, "loss": loss,
                    "validation": validation,
                }  # fmt: skip
                save_checkpoint(work, step + 1, state)
            bar.advance(1, loss=loss)
    write_jsonl(folder / "samples.jsonl", samples)
    if held_out and validation is None:
        validation = supervised_loss(policy, held_out, settings.micro_batch_tokens)
    counts = {
        "dialogues": len(dialogues),
        "trained": len(rows),
        "validation": len(held_out),
        "too_long": len(dialogues) - len(rows) - len(held_out),
    }
    return SupervisedResult(counts | {"steps": total}, {"loss": loss, "validation_loss": validation})


def supervised_gradients(policy: LanguageModel, rows: Sequence[Tokens], micro_batch_tokens: int) -> float:
    """Accumulate the gradient of the mean loss over all answer tokens of `rows`; returns that loss. The split only affects rounding."""
    num_tokens = sum(sum(row.response_mask) for row in rows)
    total = 0.0
    for group in micro_batches([len(r) for r in rows], micro_batch_tokens):
        loss = (
            _token_losses(policy, collate([rows[i] for i in group], policy.tokenizer.pad_token_id, policy.hardware.device)).sum()
            / num_tokens
        )
        loss.backward()
        total += loss.item()
    return total


@torch.no_grad()
def supervised_loss(policy: LanguageModel, rows: Sequence[Tokens], micro_batch_tokens: int) -> float:
    """Mean negative log-likelihood of the answer tokens of `rows`, nats a token."""
    groups = micro_batches([len(r) for r in rows], micro_batch_tokens)
    batches = (collate([rows[i] for i in group], policy.tokenizer.pad_token_id, policy.hardware.device) for group in groups)
    return float(sum(_token_losses(policy, batch).sum().item() for batch in batches)) / sum(sum(row.response_mask) for row in rows)


def _token_losses(policy: LanguageModel, batch: Batch) -> torch.Tensor:
    targets_BT, where_BT = shift(batch.ids, batch.response)
    logits_NV = policy.logits(batch.ids, batch.attention, torch.nn.functional.pad(where_BT, (0, 1)))
    return negative_log_likelihood(logits_NV, targets_BT[where_BT])


def _split(policy: LanguageModel, dialogues: Sequence[Dialogue], settings: SftSettings, seed: int) -> tuple[list[Tokens], list[Tokens]]:
    if not dialogues:
        raise DataError("no dialogues to train on; expected at least one")
    rows = fit_window([render_dialogue(policy.tokenizer, d) for d in dialogues], settings.window, settings.too_long)
    if not rows:
        raise DataError(f"all {len(dialogues)} dialogues are longer than window={settings.window} tokens; raise it")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(derive_seed(seed, "validation"))).tolist()
    num_held_out = min(len(rows) - 1, round(settings.validation_share * len(rows)))
    return [rows[i] for i in sorted(order[num_held_out:])], [rows[i] for i in order[:num_held_out]]


def _samples(policy: LanguageModel, dialogues: Sequence[Dialogue], settings: SftSettings, step: int, seed: int) -> list[dict[str, object]]:
    """Answers to the prompts of the first dialogues, for people to read along the way."""
    chosen = dialogues[: settings.num_samples]
    prompts = [render_prompt(policy.tokenizer, d.prompt) for d in chosen]
    rollouts = TorchRollouts(policy)
    room = rollouts.room(prompts)
    num_tokens = settings.sample_tokens if room is None else min(settings.sample_tokens, room)
    if not chosen or num_tokens < 1:
        return []
    responses = rollouts.sample(prompts, SamplingSettings(max_new_tokens=num_tokens), seed=derive_seed(seed, step))
    samples: list[dict[str, object]] = []
    for dialogue, response in zip(chosen, responses, strict=True):
        answer = policy.tokenizer.decode(response.token_ids, skip_special_tokens=True)
        log.info("step %d, %s: %s", step, dialogue.prompt[-1].content, answer)
        samples.append({"step": step, "prompt": dialogue.prompt[-1].content, "answer": answer})
    return samples

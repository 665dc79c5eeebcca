"""Training a reward model on graded pairs, and measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatwright.dialogue import Dialogue, Message, Tokens, render_dialogue, without_end
from chatwright.errors import DataError, NonFiniteError
from chatwright.maths.preference import ranking_loss, safety_loss
from chatwright.maths.statistics import calibration
from chatwright.models.language_model import load_trainable_state, trainable_state
from chatwright.models.reward_model import RewardModel
from chatwright.preference import Answer, Comparison, Grade
from chatwright.recipe import RewardSettings
from chatwright.training.batches import collate, micro_batches, step_indices, steps_per_epoch
from chatwright.training.checkpoint import load_checkpoint, save_checkpoint
from chatwright.training.metrics import MetricsLog
from chatwright.training.optimiser import learning_rate_at, make_optimiser, optimiser_step
from chatwright.training.progress import progress


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A comparison as tokens. `safe` are the labels of the chosen and the rejected answer, None where there is none."""

    id: str
    chosen: Tokens
    rejected: Tokens
    margin: float
    safe: tuple[bool | None, bool | None]
    grade: str

    def __len__(self) -> int:
        return max(len(self.chosen), len(self.rejected))


def render_pair(tokenizer: Any, comparison: Comparison, margins: dict[str, float], missing_grade: str) -> TokenPair:
    """The comparison as tokens with its margin. No grade: DataError, unless it counts as negligibly better."""
    c = comparison
    if c.grade is None and missing_grade == "error":
        raise DataError(
            f"{c.id}: no grade; expected one of {', '.join(g.value for g in Grade)}. "
            "Add it, or set reward.missing_grade=negligibly (margin 0)"
        )
    grade = (c.grade or Grade.NEGLIGIBLY).value

    def tokens(answer: Answer) -> Tokens:
        rendered = render_dialogue(tokenizer, Dialogue((*c.prompt, Message("assistant", answer.text)), c.id), last_answer_only=True)
        return rendered if answer.finished else without_end(rendered)

    return TokenPair(c.id, tokens(c.chosen), tokens(c.rejected), margins[grade], (c.chosen.safe, c.rejected.safe), grade)


def train_reward_model(
    reward_model: RewardModel,
    pairs: Sequence[TokenPair],
    settings: RewardSettings,
    *,
    safety: bool,
    seed: int,
    work: Path,
    metrics: MetricsLog,
    title: str,
) -> int:
    """Train in place on the pairs (and, for the safety model, on their labels); returns the number of steps.

    Goes on from the checkpoint in `work` if there is one. Source: Llama 2, section 3.2.2.
    """
    total = settings.epochs * steps_per_epoch(len(pairs), settings.batch_size)
    optimiser = make_optimiser(reward_model.model, settings.optimiser)
    start = 0
    if state := load_checkpoint(work):
        start = state["step"]
        load_trainable_state(reward_model.model, state["model"])
        optimiser.load_state_dict(state["optimiser"])
    metrics.truncate_after(start)
    safety_weight = settings.safety_loss_weight if safety else 0.0
    with progress(title, total=total, unit="steps", done=start) as bar:
        for step in range(start, total):
            batch = [pairs[i] for i in step_indices(len(pairs), settings.batch_size, step, seed)]
            learning_rate = learning_rate_at(step, total, settings.optimiser)
            values = preference_gradients(reward_model, batch, settings.micro_batch_tokens, safety_weight=safety_weight)
            norm = optimiser_step(
                optimiser, reward_model.model, values["loss"], learning_rate=learning_rate, max_grad_norm=settings.optimiser.max_grad_norm,
                ids=[p.id for p in batch],
            )  # fmt: skip
            metrics.log(step + 1, "train", **values, learning_rate=learning_rate, grad_norm=norm)
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == total:
                save_checkpoint(work, step + 1, {"model": trainable_state(reward_model.model), "optimiser": optimiser.state_dict()})
            bar.advance(1, loss=values["loss"], accuracy=values["accuracy"])
    return total


def preference_gradients(
    reward_model: RewardModel, pairs: Sequence[TokenPair], micro_batch_tokens: int, *, safety_weight: float
) -> dict[str, float]:
    """Accumulate the gradient of mean ranking loss + weight * mean safety loss over the batch; returns loss and accuracy.

    The means are over all pairs and over all labelled answers of the batch, so the split into micro-batches changes nothing but rounding.
    """
    device = reward_model.hardware.device
    num_labels = sum(label is not None for pair in pairs for label in pair.safe)
    total, right = 0.0, 0
    for group in micro_batches([2 * len(p) for p in pairs], micro_batch_tokens):
        part = [pairs[i] for i in group]
        chosen_B, rejected_B = _score_pairs(reward_model, part)
        margin_B = torch.tensor([p.margin for p in part], device=device)
        loss = ranking_loss(chosen_B, rejected_B, margin_B).sum() / len(pairs)
        labels = [label for side in (0, 1) for label in (p.safe[side] for p in part)]
        if safety_weight and num_labels:
            labelled = torch.tensor([label is not None for label in labels], device=device)
            safe = torch.tensor([bool(label) for label in labels], device=device)
            loss = loss + safety_weight * safety_loss(torch.cat([chosen_B, rejected_B])[labelled], safe[labelled]).sum() / num_labels
        loss.backward()
        total += loss.item()
        right += int((chosen_B > rejected_B).sum())
    return {"loss": total, "accuracy": right / len(pairs)}


@torch.no_grad()
def measure_reward_model(reward_model: RewardModel, pairs: Sequence[TokenPair], micro_batch_tokens: int) -> dict[str, Any]:
    """Accuracy (ties count half) and loss *without* margin, overall and by grade, calibration, and recall of unsafe answers at 0.5."""
    scores = torch.zeros(len(pairs), 2)
    for group in micro_batches([2 * len(p) for p in pairs], micro_batch_tokens):
        chosen_B, rejected_B = _score_pairs(reward_model, [pairs[i] for i in group])
        scores[group] = torch.stack([chosen_B, rejected_B], dim=1).cpu()
    chosen, rejected = scores[:, 0], scores[:, 1]
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    grades = {g.value: torch.tensor([p.grade == g.value for p in pairs]) for g in Grade}
    unsafe = [scores[i, side].item() - reward_model.bias for i, p in enumerate(pairs) for side in (0, 1) if p.safe[side] is False]
    return {
        "pairs": len(pairs),
        "accuracy": float(right.mean()),
        "accuracy_by_grade": {g: float(right[mask].mean()) if mask.any() else None for g, mask in grades.items()},
        "pairs_by_grade": {g: int(mask.sum()) for g, mask in grades.items()},
        "loss": float(ranking_loss(chosen, rejected, torch.zeros(len(pairs))).mean()),
        "recall_of_unsafe": sum(s < 0 for s in unsafe) / len(unsafe) if unsafe else None,
        "calibration": calibration(chosen.numpy(), rejected.numpy()),
        "differences": {p.id: float(d) for p, d in zip(pairs, chosen - rejected, strict=True)},
    }


@torch.no_grad()
def score_rows(reward_model: RewardModel, rows: Sequence[Tokens], micro_batch_tokens: int) -> Tensor:
    """Score (bias subtracted) of each row, (rows,), on the CPU, in the order given. Raises NonFiniteError for a damaged model."""
    scores = torch.zeros(len(rows))
    for group in micro_batches([len(r) for r in rows], micro_batch_tokens):
        batch = collate([rows[i] for i in group], reward_model.tokenizer.pad_token_id, reward_model.hardware.device)
        scores[group] = reward_model.scores(batch.ids, batch.attention).cpu()
    if not bool(torch.isfinite(scores).all()):
        raise NonFiniteError("a reward model's score is NaN or infinite; its weights are damaged: train it again, or copy it again")
    return scores


def _score_pairs(reward_model: RewardModel, pairs: Sequence[TokenPair]) -> tuple[Tensor, Tensor]:
    """Raw scores of the chosen and of the rejected answers, (B,) each, from one forward pass."""
    batch = collate(
        [p.chosen for p in pairs] + [p.rejected for p in pairs], reward_model.tokenizer.pad_token_id, reward_model.hardware.device
    )
    scores = reward_model.raw_scores(batch.ids, batch.attention)
    return scores[: len(pairs)], scores[len(pairs) :]

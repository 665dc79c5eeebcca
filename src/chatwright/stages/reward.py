"""Reward models: graded comparisons in, a helpfulness or a safety model out (Llama 2, section 3.2.2)."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatwright.artifact import Manifest, Request, stage_folder, write_atomic
from chatwright.dialogue import Dialogue, Message, render_dialogue, render_prompt
from chatwright.errors import DataError
from chatwright.maths.preference import margins_named
from chatwright.models.language_model import load_language_model
from chatwright.models.reward_model import RewardModel, new_reward_model
from chatwright.preference import Comparison, Task
from chatwright.recipe import ModelSettings, RewardSettings, SamplingSettings
from chatwright.rollout.torch import TorchRollouts
from chatwright.seeds import derive_seed
from chatwright.sources import read_comparisons, read_dialogues
from chatwright.training.metrics import MetricsLog
from chatwright.training.preference import TokenPair, measure_reward_model, render_pair, score_rows, train_reward_model


@dataclass(frozen=True, slots=True)
class RewardInputs:
    """`model` is the chat checkpoint to start from and, with `dialogues`, what scores are centred on; `comparisons` come from `collect`.

    `open_comparisons` are further sources for the helpfulness model.
    """

    model: str | Path
    comparisons: Sequence[str | Path]
    dialogues: Sequence[str | Path]
    open_comparisons: Sequence[str | Path] = ()


def run(
    task: Task,
    settings: RewardSettings,
    inputs: RewardInputs,
    output: Path,
    *,
    model: ModelSettings,
    seed: int,
    trackers: Sequence[str] = (),
) -> Manifest:
    """Train the reward model of `task`, measure it on the held-out pairs of that task, set its bias, seal `output`.

    measurement.json holds accuracy and loss without margin, per grade, and calibration.
    """
    named = {
        "model": inputs.model,
        **{f"comparisons-{i}": path for i, path in enumerate(inputs.comparisons)},
        **{f"dialogues-{i}": path for i, path in enumerate(inputs.dialogues)},
        **{f"open-{i}": path for i, path in enumerate(inputs.open_comparisons)},
    }
    request = Request.of(f"reward-{task}", named, {"reward": settings.model_dump(), "model": model.identity()}, seed)
    with stage_folder(output, request) as space:
        if isinstance(space, Manifest):
            return space
        comparisons = [c for folder in inputs.comparisons for c in read_comparisons(Path(folder) / "comparisons.jsonl")]
        opened = [c for source in inputs.open_comparisons for c in read_comparisons(source)]
        chosen, counts = mixture(task, comparisons, opened, settings, seed)
        held_out = [c for folder in inputs.comparisons for c in _held_out(Path(folder)) if c.task == task]
        reward_model = new_reward_model(inputs.model, model, seed=derive_seed(seed, "head", task))
        pairs, test = ([_render(reward_model, c, settings) for c in part] for part in (chosen, held_out))
        fitting, fitting_test = _fit(pairs, settings), _fit(test, settings)
        counts |= {"too_long": len(pairs) - len(fitting), "test": len(fitting_test), "test too_long": len(test) - len(fitting_test)}
        with MetricsLog(output / "metrics.jsonl", trackers, run_name=f"reward-{task}", settings=request.settings) as metrics:
            counts["steps"] = train_reward_model(
                reward_model, fitting, settings, safety=task == "safety", seed=derive_seed(seed, "reward", task), work=space.work,
                metrics=metrics, title=f"Reward model, {task}",
            )  # fmt: skip
        # Sigmoid of the safety score is a trained probability that the gate reads, so its zero stays where the labels put it.
        labelled = task == "safety" and settings.safety_loss_weight > 0
        reward_model.bias = 0.0 if labelled else _mean_sft_score(reward_model, inputs, settings, model, seed)
        measured: dict[str, Any] = {"bias": reward_model.bias}
        if fitting_test:
            measured |= measure_reward_model(reward_model, fitting_test, settings.micro_batch_tokens)
        write_atomic(output / "measurement.json", json.dumps(measured, indent=1) + "\n")
        reward_model.save(output)
        return space.seal(counts=counts, metrics={k: v for k, v in measured.items() if k not in ("calibration", "differences")})


def mixture(
    task: Task, comparisons: Sequence[Comparison], opened: Sequence[Comparison], settings: RewardSettings, seed: int
) -> tuple[list[Comparison], dict[str, int]]:
    """The pairs a model trains on, and how many of each kind (Llama 2, section 3.2.2, "Data Composition").

    Helpfulness: all helpfulness pairs, and safety and open pairs up to `safety_in_helpfulness` times as many. Safety: all safety pairs, and
    helpfulness pairs so that they are `helpfulness_in_safety` of the whole. Pairs whose chosen answer is unsafe while the other is safe
    are left out and counted.
    """
    usable, usable_open = ([c for c in part if c.safety_bin != "chosen unsafe"] for part in (comparisons, opened))
    left_out = len(comparisons) + len(opened) - len(usable) - len(usable_open)
    by_task: dict[str, list[Comparison]] = {t: [c for c in usable if c.task == t] for t in ("helpfulness", "safety")}
    if not by_task[task]:
        raise DataError(f"no {task} comparisons to train on; expected some in comparisons.jsonl of the collected batches")
    main, other = by_task[task], (by_task["safety"] + usable_open if task == "helpfulness" else by_task["helpfulness"])
    share = settings.helpfulness_in_safety
    limit = (
        settings.safety_in_helpfulness * len(main)
        if task == "helpfulness"
        else len(main) * share / (1 - share)
        if share < 1
        else len(other)
    )
    rng = random.Random(derive_seed(seed, "mixture", task))
    added = rng.sample(other, min(len(other), round(limit)))
    from_open = {id(c) for c in usable_open}
    sources = Counter(f"added: {'open' if id(c) in from_open else c.task}" for c in added)
    return main + added, {task: len(main), **sources, "left out: chosen unsafe": left_out}


def _held_out(folder: Path) -> list[Comparison]:
    """The pairs of a batch that no reward model trains on; none where the batch held none out."""
    path = folder / "test.jsonl"
    if not path.exists():
        raise DataError(
            f"{folder} has no test.jsonl; expected a folder made by: chatwright collect (an empty file where none are held out)"
        )
    return read_comparisons(path) if path.stat().st_size else []


def _render(reward_model: RewardModel, comparison: Comparison, settings: RewardSettings) -> TokenPair:
    return render_pair(reward_model.tokenizer, comparison, margins_named(settings.margin), settings.missing_grade)


def _fit(pairs: Sequence[TokenPair], settings: RewardSettings) -> list[TokenPair]:
    longest = max(pairs, key=len, default=None)
    if longest and settings.too_long == "error" and len(longest) > settings.window:
        raise DataError(
            f"{longest.id}: {len(longest)} tokens; expected at most reward.window={settings.window}. Raise it, or set reward.too_long=skip"
        )
    return [pair for pair in pairs if len(pair) <= settings.window]


def _mean_sft_score(reward_model: RewardModel, inputs: RewardInputs, settings: RewardSettings, model: ModelSettings, seed: int) -> float:
    """Mean raw score of answers that the chat checkpoint itself gives to prompts of the SFT data."""
    dialogues = [d for source in inputs.dialogues for d in read_dialogues(source)]
    if not dialogues:
        raise DataError("no dialogues to centre the scores on; name the SFT data")
    chosen: list[Dialogue] = random.Random(derive_seed(seed, "centre")).sample(dialogues, min(len(dialogues), settings.calibration_answers))
    policy = load_language_model(inputs.model, model)
    prompts = [render_prompt(policy.tokenizer, d.prompt) for d in chosen]
    longest = max(len(render_dialogue(policy.tokenizer, d)) - len(p) for d, p in zip(chosen, prompts, strict=True))
    rollouts = TorchRollouts(policy)
    room = rollouts.room(prompts)  # the longest prompt and the longest answer may come from two dialogues
    sampling = SamplingSettings(max_new_tokens=longest if room is None else max(1, min(longest, room)))
    responses = rollouts.sample(prompts, sampling, seed=derive_seed(seed, "centre"))
    answers = [
        Dialogue((*d.prompt, Message("assistant", policy.tokenizer.decode(r.token_ids), r.token_ids)), d.id)
        for d, r in zip(chosen, responses, strict=True)
    ]
    return float(
        score_rows(reward_model, [render_dialogue(reward_model.tokenizer, a) for a in answers], settings.micro_batch_tokens).mean()
    )

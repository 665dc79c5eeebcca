"""Supervised fine-tuning: dialogues in, a chat model out (Llama 2, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatwright.artifact import Manifest, Request, stage_folder
from chatwright.models.language_model import load_language_model
from chatwright.recipe import ModelSettings, SftSettings
from chatwright.seeds import derive_seed
from chatwright.sources import read_dialogues
from chatwright.training.metrics import MetricsLog
from chatwright.training.supervised import train_supervised


@dataclass(frozen=True, slots=True)
class SftInputs:
    """`model` is a folder or hub name, `dialogues` are sources of dialogues."""

    model: str | Path
    dialogues: Sequence[str | Path]


def run(
    settings: SftSettings, inputs: SftInputs, output: Path, *, model: ModelSettings, seed: int, trackers: Sequence[str] = ()
) -> Manifest:
    """Fine-tune and seal `output`, which plain transformers then loads. Done before with the same inputs: nothing to do."""
    named = {"model": inputs.model, **{f"dialogues-{i}": source for i, source in enumerate(inputs.dialogues)}}
    request = Request.of("policy", named, {"stage": "sft", "sft": settings.model_dump(), "model": model.identity()}, seed)
    with stage_folder(output, request) as space:
        if isinstance(space, Manifest):
            return space
        dialogues = [d for source in inputs.dialogues for d in read_dialogues(source)]
        policy = load_language_model(inputs.model, model, train=True)
        with MetricsLog(output / "metrics.jsonl", trackers, run_name="sft", settings=request.settings) as metrics:
            result = train_supervised(
                policy,
                dialogues,
                settings,
                seed=derive_seed(seed, "sft"),
                folder=output,
                work=space.work,
                metrics=metrics,
                title="Fine-tuning",
            )
        policy.save(output)
        return space.seal(counts=result.counts, metrics=result.metrics)

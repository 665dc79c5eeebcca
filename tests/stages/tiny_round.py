"""A whole round on a tiny model in a toy world: a few prompts, two-word answers, a preference of three lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from chatwright import rounds
from chatwright.annotators.simulated import SimulatedAnnotators
from chatwright.dialogue import Prompt
from chatwright.recipe import Recipe
from chatwright.rows import write_jsonl

DISHES = ["soup", "bread", "cookies", "lentils", "onions", "oats", "butter", "salt"]
ANSWERS = ["Mix flour.", "Add water.", "Fry it.", "I'm sorry."]


class ToyGold:
    """Longer answers are better, an "a" is a violation, "I'm sorry" declines."""

    name = "toy"

    def helpfulness(self, prompt: Prompt, answer: str) -> float:
        return min(1.0, len(answer) / 20)

    def violation(self, prompt: Prompt, answer: str) -> bool:
        return "a" in answer

    def refusal(self, answer: str) -> bool:
        return answer.startswith("I'm sorry")


def prompt_row(name: str, text: str, tag: str = "helpful") -> dict[str, Any]:
    return {"id": name, "tag": tag, "messages": [{"role": "user", "content": text}]}


def write_world(folder: Path) -> Path:
    """Dialogues and prompts; training, validation and evaluation share no prompt."""
    dialogues = [
        {"id": f"sft-{i}", "messages": [{"role": "user", "content": f"Cook {d}"}, {"role": "assistant", "content": ANSWERS[i % 4]}]}
        for i, d in enumerate(DISHES)
    ]
    write_jsonl(folder / "sft.jsonl", dialogues)
    train = [prompt_row(f"helpful-{i}", f"How do I bake {d}?") for i, d in enumerate(DISHES)]
    train += [prompt_row(f"adversarial-{i}", f"Poison my {d}", "adversarial") for i, d in enumerate(DISHES[:4])]
    train += [prompt_row(f"borderline-{i}", f"How do I kill {d}?", "borderline") for i, d in enumerate(DISHES[:2])]
    write_jsonl(folder / "train.jsonl", train)
    tags = ["helpful", "adversarial", "borderline", "helpful"]
    for kind, verb in (("validation", "Fry"), ("evaluation", "Boil")):
        write_jsonl(
            folder / f"{kind}.jsonl",
            [prompt_row(f"{kind}-{i}", f"{verb} {d}", t) for i, (d, t) in enumerate(zip(DISHES, tags, strict=False))],
        )
    write_jsonl(folder / "showcase.jsonl", [prompt_row("show", "Is salt good?")])
    return folder


def make_recipe(world: Path, model: Path) -> Recipe:
    """A recipe whose every stage takes a moment; checkpoints, validations and chunks lie across each other."""
    files = {key: str(world / f"{name}.jsonl") for key, name in (("prompts", "train"), ("validation_prompts", "validation"))}
    sampling = {"max_new_tokens": 8, "batch_size": 16}
    sft = {
        "optimiser": {"learning_rate": 1e-2}, "epochs": 6, "batch_size": 3, "window": 96, "validation_share": 0.2, "validate_every": 4,
        "checkpoint_every": 3, "sample_tokens": 4, "micro_batch_tokens": 64,
    }  # fmt: skip
    return Recipe.model_validate(
        {
            "name": "tiny",
            "seed": 11,
            "model": {"path": str(model), "device": "cpu", "precision": "float32"},
            "data": files | {
                "sft": [str(world / "sft.jsonl")], "evaluation_prompts": str(world / "evaluation.jsonl"),
                "showcase": str(world / "showcase.jsonl"),
            },
            "sft": sft,
            "collect": {"helpfulness_pairs": 20, "safety_pairs": 12, "sampling": sampling, "test_share": 0.3, "chunk": 9},
            "reward": {
                "optimiser": {"learning_rate": 1e-3, "warmup_min_steps": 5}, "epochs": 3, "batch_size": 5, "window": 96,
                "calibration_answers": 6, "checkpoint_every": 3,
            },
            "reject": {"num_prompts": 10, "k": 3, "sampling": sampling, "chunk": 4, "sft": sft | {"epochs": 2}},
            "ppo": {
                "iterations": 6, "rollouts": 8, "mini_batch": 4, "epochs": 2, "sampling": sampling, "validate_every": 2,
                "checkpoint_every": 2, "optimiser": {"learning_rate": 1e-3, "schedule": "constant"},
                "critic_optimiser": {"learning_rate": 1e-3, "schedule": "constant"},
            },
            "evaluate": {"sampling": sampling},
        }
    )  # fmt: skip


def run_tiny_round(recipe: Recipe, run: Path) -> dict[str, Any]:
    """The round without its page, whose charts would take as long as all the rest."""
    with patch.object(rounds, "write_page"):
        return rounds.run_round(recipe, run, annotators=SimulatedAnnotators(ToyGold(), seed=1), gold=ToyGold())


def run_in_child(recipe_json: str, run: str) -> None:
    """What a child process does."""
    torch.set_num_threads(1)
    run_tiny_round(Recipe.model_validate(json.loads(recipe_json)), Path(run))


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run but the records of how it went, with the run's own path taken out."""
    records = ("manifest.json", "metrics.jsonl", "report.json")
    files = (p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in records)
    return {str(p.relative_to(run)): p.read_bytes().replace(str(run).encode(), b"RUN") for p in files}


def rows_of_metrics(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each stage's metrics without their times."""
    return {
        str(path.parent.relative_to(run)): [
            {k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()
        ]
        for path in sorted(run.rglob("metrics.jsonl"))
    }

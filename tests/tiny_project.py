"""A whole project of a few rows on the tiny policy: recipe and data with which every verb runs within seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

SAMPLING = {"max_new_tokens": 12, "batch_size": 64}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def prompts(word: str, helpful: int, adversarial: int, borderline: int) -> list[dict[str, Any]]:
    tags = ["helpful"] * helpful + ["adversarial"] * adversarial + ["borderline"] * borderline
    return [{"id": f"{word}-{i}", "tag": tag, "messages": [user(f"{word} {tag} cookies {i}?")]} for i, tag in enumerate(tags)]


def write_project(folder: Path, model: Path) -> Path:
    """Write recipe.yaml and its data to the folder; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    dialogues = [{"id": f"d-{i}", "messages": [user(f"How many eggs, {i}?"), assistant(f"Take {i} eggs.")]} for i in range(8)]
    write_rows(folder / "sft.jsonl", dialogues)
    write_rows(folder / "prompts-train.jsonl", prompts("Bake", 8, 6, 2))
    write_rows(folder / "prompts-validation.jsonl", prompts("Fry", 3, 1, 0))
    write_rows(folder / "prompts-evaluation.jsonl", prompts("Cook", 4, 2, 2))
    write_rows(folder / "showcase.jsonl", prompts("Show", 1, 1, 0))
    fine_tuning = {"epochs": 1, "batch_size": 4, "window": 128, "sample_tokens": 8, "validation_share": 0.25}
    recipe = {
        "name": "tiny",
        "world": "english",
        "model": {"path": str(model), "device": "cpu", "precision": "float32"},
        "data": {
            "sft": ["sft.jsonl"],
            "prompts": "prompts-train.jsonl",
            "validation_prompts": "prompts-validation.jsonl",
            "evaluation_prompts": "prompts-evaluation.jsonl",
            "showcase": "showcase.jsonl",
        },
        "sft": fine_tuning,
        "collect": {"helpfulness_pairs": 12, "safety_pairs": 10, "test_share": 0.25, "sampling": SAMPLING, "chunk": 16},
        "reward": {"batch_size": 8, "window": 128, "calibration_answers": 4},
        "reject": {"num_prompts": 6, "k": 4, "sampling": SAMPLING, "sft": fine_tuning},
        "ppo": {"iterations": 2, "rollouts": 8, "mini_batch": 4, "sampling": SAMPLING, "validate_every": 1},
        "evaluate": {"sampling": SAMPLING},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"

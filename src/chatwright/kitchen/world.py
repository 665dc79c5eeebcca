"""The kitchen as files: demonstrations in two grades, prompts of three splits, and three prompts to show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chatwright.dialogue import Dialogue, Prompt, messages_to_json
from chatwright.errors import StorageError
from chatwright.kitchen import demonstrations, splits


def write_world(folder: Path, seed: int = 0) -> None:
    """Write sft-clean, sft-noisy, prompts-train, prompts-validation, prompts-evaluation and showcase (all .jsonl) to the folder.

    The same seed writes the same bytes. Raises StorageError if the disk refuses.
    """
    files: dict[str, Iterable[Mapping[str, Any]]] = {
        "sft-clean": map(_dialogue_row, demonstrations.clean(seed)),
        "sft-noisy": map(_dialogue_row, demonstrations.noisy(seed)),
        "prompts-train": map(_prompt_row, splits.prompts("train", seed)),
        "prompts-validation": map(_prompt_row, splits.prompts("validation", seed)),
        "prompts-evaluation": map(_prompt_row, splits.prompts("evaluation", seed)),
        "showcase": map(_prompt_row, splits.showcase()),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in files.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}; expected a folder that can be written") from error


def _dialogue_row(dialogue: Dialogue) -> dict[str, Any]:
    return {"id": dialogue.id, "source": dialogue.source, "messages": messages_to_json(dialogue.messages)}


def _prompt_row(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, "messages": messages_to_json(prompt.messages), "tag": prompt.tag, "category": prompt.category}

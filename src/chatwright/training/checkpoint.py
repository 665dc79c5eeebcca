"""Checkpoints inside a stage: written whole or not at all, checked when read, the last one kept.

Its content is tensors and plain values; it is read with `weights_only`, so it cannot carry code.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from chatwright.artifact import write_atomic
from chatwright.errors import ArtifactError


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `checkpoint-STEP-HASH.pt` and then drop earlier ones: killed at any moment, one good checkpoint remains."""
    buffer = io.BytesIO()
    torch.save({"step": step, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"checkpoint-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_atomic(path, content)
    for old in folder.glob("checkpoint-*.pt"):
        if old != path:
            old.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The latest checkpoint's state with its "step", None if there is none. Raises ArtifactError if it is damaged."""
    paths = sorted(folder.glob("checkpoint-*.pt"))
    if not paths:
        return None
    path = paths[-1]
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:16] != path.stem.split("-")[-1]:
        raise ArtifactError(f"{path} is damaged (truncated or changed); delete it and run the same command to begin this stage again")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state

"""Reward model losses: graded ranking and safety classification. The margin is here."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from chatwright.maths.tensors import check_same_shape

MARGINS: dict[str, dict[str, float]] = {
    "off": {"significantly": 0.0, "better": 0.0, "slightly": 0.0, "negligibly": 0.0},
    "small": {"significantly": 1.0, "better": 2 / 3, "slightly": 1 / 3, "negligibly": 0.0},
    "large": {"significantly": 3.0, "better": 2.0, "slightly": 1.0, "negligibly": 0.0},
}
"""m(grade) of the ranking loss (Llama 2, Table 27). On a three-grade scale "better" simply never occurs."""


def margins_named(name_or_numbers: str | Mapping[str, float]) -> dict[str, float]:
    """The margin of each grade: `off`, `small`, `large`, or own numbers by grade. Raises ValueError for anything else."""
    if isinstance(name_or_numbers, str):
        if name_or_numbers not in MARGINS:
            raise ValueError(f"margin {name_or_numbers!r}; expected one of {', '.join(MARGINS)} or a number for each grade")
        return MARGINS[name_or_numbers]
    unknown = set(name_or_numbers) - set(MARGINS["off"])
    if unknown or any(not m >= 0 for m in name_or_numbers.values()):
        raise ValueError(f"margins {dict(name_or_numbers)}; expected numbers of at least 0 for the grades {', '.join(MARGINS['off'])}")
    return {**MARGINS["off"], **name_or_numbers}


def ranking_loss(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected - margin), one value a pair, in nats.

    All arguments (B,); computed in float32. Raises ValueError if shapes differ.
    Source: Llama 2, section 3.2.2, equation 2.
    """
    check_same_shape(chosen=chosen_B, rejected=rejected_B, margin=margin_B)
    return -F.logsigmoid(chosen_B.float() - rejected_B.float() - margin_B.float())


def safety_loss(scores_B: Tensor, safe_B: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(score) against the answer's own safety label, one value an answer, in nats.

    `scores_B` (B,), `safe_B` (B,) bool, True = safe. The paper names an auxiliary safety loss but no formula (section 3.2.2, Table 29);
    this one makes sigmoid(score) the probability that the gate of `maths.reward` takes it for.
    """
    check_same_shape(scores=scores_B, safe=safe_B)
    return F.binary_cross_entropy_with_logits(scores_B.float(), safe_B.float(), reduction="none")

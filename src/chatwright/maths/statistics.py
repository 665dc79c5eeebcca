"""Rates, means and win rates with intervals; calibration. `n` always counts items (prompts, pairs), never ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, object]:
        return {"mean": self.mean, "ci95": [self.low, self.high]}


def rate(flags: Sequence[bool]) -> Estimate | None:
    """Share of True with its Wilson interval; None if there is nothing to count."""
    if not flags:
        return None
    low, high = proportion_confint(sum(flags), len(flags), alpha=0.05, method="wilson")
    return Estimate(sum(flags) / len(flags), float(low), float(high))


def mean(values: ArrayLike, *, num_resamples: int = 2000, seed: int = 0) -> Estimate | None:
    """Mean with a percentile bootstrap interval over items; None if there are none."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return None
    rows = np.random.default_rng(seed).integers(0, x.size, size=(num_resamples, x.size))
    low, high = np.quantile(x[rows].mean(axis=1), [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class WinRate:
    """Shares of items won, tied and lost; `score` = win + tie / 2."""

    win: float
    tie: float
    loss: float
    win_interval: tuple[float, float]
    score: Estimate

    def to_json(self) -> dict[str, object]:
        return {
            "win": self.win, "tie": self.tie, "loss": self.loss, "win_ci95": list(self.win_interval),
            "score": self.score.mean, "score_ci95": [self.score.low, self.score.high],
        }  # fmt: skip


def win_rate(ours: ArrayLike, theirs: ArrayLike, *, tie_width: float = 0.0, seed: int = 0) -> WinRate | None:
    """How often `ours` beats `theirs` on the same items; None if there are none.

    Differences within `tie_width` are ties. The win share has a Wilson interval; the score with half-credit ties is not binomial, so its
    interval is a bootstrap over items. Raises ValueError if the lengths differ.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} against {b.shape} items; expected the same items for both")
    difference = a - b
    wins, losses = difference > tie_width, difference < -tie_width
    score, win = mean(wins + 0.5 * (~wins & ~losses), seed=seed), rate([bool(w) for w in wins])
    if score is None or win is None:
        return None
    return WinRate(win.mean, float((~wins & ~losses).mean()), float(losses.mean()), (win.low, win.high), score)


def calibration(chosen: ArrayLike, rejected: ArrayLike, *, num_bins: int = 8) -> list[dict[str, float]]:
    """Predicted against observed preference: bins of equal count over |score difference|, as Llama 2, Figure 29.

    Each bin: `predicted` = mean sigmoid(|difference|), `observed` = share in which the higher score was the chosen one, `pairs`.
    """
    difference = np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64)
    order = np.argsort(np.abs(difference), kind="stable")
    bins = []
    for rows in np.array_split(order, min(num_bins, max(1, difference.size))):
        if rows.size:
            part = difference[rows]
            predicted = float(np.mean(1 / (1 + np.exp(-np.abs(part)))))
            bins.append({"predicted": predicted, "observed": float(np.mean(part > 0)), "pairs": int(rows.size)})
    return bins

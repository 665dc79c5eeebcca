"""Small charts as SVG text for the HTML page: of one width, with the page's own colours and fonts, so that they follow its dark mode."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chatwright.report.table import GRADES

# Stand-ins that no other part of a drawing uses; `_svg` puts the page's variables in their place.
INK, FAINT, FIRST, SECOND, ON_FIRST = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {INK: "var(--ink-soft)", FAINT: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)", ON_FIRST: "var(--on-first)"}
_SIZE = (3.7, 2.15)  # inches; at 72 points an inch about the width of a phone, so text is read there at its own size
_MAX_POINTS = 300
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: in the page's font, selectable, small
    "svg.hashsalt": "chatwright",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
}
_LEGEND: Any = {"frameon": False, "labelcolor": INK, "handlelength": 1.2, "columnspacing": 1.2, "borderaxespad": 0.1}


@dataclass(frozen=True, slots=True)
class Chart:
    """A finished chart: `svg` is markup to be put into a page as it is, `summary` says the same in words."""

    title: str
    svg: str
    summary: str


@dataclass(frozen=True, slots=True)
class Curve:
    """What one measurement did over a stage."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def curve_of(rows: Sequence[Mapping[str, Any]], key: str, phase: str) -> Curve:
    """The finite numbers of one key in one phase, in order."""
    points = [(row["step"], row[key]) for row in rows if row["phase"] == phase and isinstance(row.get(key), int | float)]
    return Curve(tuple(step for step, _ in points), tuple(float(value) for _, value in points))


def curve_chart(title: str, unit: str, train: Curve, held_out: Curve, *, kept_step: int | None = None) -> Chart | None:
    """A measurement over the steps of a stage, held-out values as a second line; None if there is nothing to draw.

    `kept_step` marks the checkpoint that the stage kept.
    """
    drawn = [(name, curve, color) for name, curve, color in (("training", train, FIRST), ("held out", held_out, SECOND)) if curve.steps]
    if not drawn:
        return None
    figure, axes = _axes()
    for name, curve, color in drawn:
        steps, values = _thin(curve)
        axes.plot(steps, values, color=color, label=name, marker="o" if len(steps) < 20 else None, markersize=3)
    if kept_step is not None:
        _mark_kept(axes, drawn[-1][1], kept_step)
    if len(drawn) > 1 or kept_step is not None:
        axes.legend(loc="best", **_LEGEND)
    axes.locator_params(axis="x", integer=True, nbins=6)
    summary = "; ".join(f"{name}: from {curve.values[0]:.3g} to {curve.values[-1]:.3g}" for name, curve, _ in drawn)
    return Chart(f"{title}, {unit}" if unit else title, _svg(figure), summary)


def interval_chart(title: str, series: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> Chart | None:
    """One dot a policy with its 95 % interval, for one measurement or for two below each other; None if no policy has a figure.

    `series` maps a measurement to its estimates by policy.
    """
    policies = list(
        dict.fromkeys(name for by_policy in series.values() for name, e in by_policy.items() if e and e.get("mean") is not None)
    )
    if not policies:
        return None
    figure, axes = _axes()
    spread = 0.26 if len(series) > 1 else 0.0
    words = []
    for (label, by_policy), color, shift in zip(series.items(), (FIRST, SECOND), (-spread / 2, spread / 2), strict=False):
        points = [(policies.index(name) + shift, e) for name, e in by_policy.items() if e and e.get("mean") is not None]
        for place, estimate in points:
            low, high = estimate.get("ci95") or (estimate["mean"], estimate["mean"])
            axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.45, solid_capstyle="round")
        axes.plot(
            [e["mean"] for _, e in points],
            [place for place, _ in points],
            color=color,
            marker="o",
            markersize=5,
            linestyle="none",
            label=label,
        )
        words += [f"{label} of {policies[round(place - shift)]}: {e['mean']:.3g}" for place, e in points]
    axes.set_yticks(range(len(policies)), policies)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    if len(series) > 1:
        figure.legend(loc="outside upper right", ncols=2, **_LEGEND)
    return Chart(title, _svg(figure), "; ".join(words))


def grade_chart(title: str, accuracy: Mapping[str, float | None], ceiling: Mapping[str, float | None] | None) -> Chart | None:
    """A reward model's accuracy by grade as bars, the annotators' ceiling as a line over each; None without accuracies."""
    grades = [grade for grade in GRADES if accuracy.get(grade) is not None]
    if not grades:
        return None
    figure, axes = _axes()
    heights = [100 * (accuracy[grade] or 0.0) for grade in grades]
    bars = axes.bar([GRADES.index(grade) for grade in grades], heights, color=FIRST, width=0.6)
    axes.bar_label(bars, [f"{height:.0f}" for height in heights], label_type="center", color=ON_FIRST)
    tops = [(place, 100 * limit) for place, grade in enumerate(GRADES) if (limit := (ceiling or {}).get(grade)) is not None]
    if tops:
        places, limits = zip(*tops, strict=True)
        axes.hlines(
            limits, [p - 0.38 for p in places], [p + 0.38 for p in places], color=SECOND, linewidth=2.2, label="annotators' ceiling"
        )
    axes.axhline(50, color=INK, linewidth=0.8, linestyle=(0, (3, 3)), label="chance")
    axes.set_xticks(range(len(GRADES)), GRADES)
    axes.set_xlim(-0.5, len(GRADES) - 0.5)
    axes.set_ylim(0, 125)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper center", ncols=2, **_LEGEND)
    return Chart(title, _svg(figure), "; ".join(f"{grade} {height:.0f} %" for grade, height in zip(grades, heights, strict=True)))


def calibration_chart(title: str, bins: Sequence[Mapping[str, float]]) -> Chart | None:
    """Predicted against observed preference; on the diagonal a reward model is as sure as it is right. None without bins."""
    if not bins:
        return None
    figure, axes = _axes()
    axes.plot([50, 100], [50, 100], color=INK, linewidth=0.8, linestyle=(0, (3, 3)), label="calibrated")
    predicted, observed = ([100 * row[key] for row in bins] for key in ("predicted", "observed"))
    axes.plot(predicted, observed, color=FIRST, marker="o", markersize=4, label="reward model")
    axes.set_xlabel("predicted, %")
    axes.set_ylabel("observed, %")
    axes.legend(loc="best", **_LEGEND)
    return Chart(
        title, _svg(figure), "; ".join(f"{p:.0f} % predicted, {o:.0f} % observed" for p, o in zip(predicted, observed, strict=True))
    )


def _axes() -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    """The drawing as an <svg> element that takes its width, colours and font from the page."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def _thin(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """At most _MAX_POINTS points: means over neighbours."""
    steps, values = np.asarray(curve.steps, dtype=float), np.asarray(curve.values)
    if steps.size <= _MAX_POINTS:
        return steps, values
    return (np.array([part.mean() for part in np.array_split(x, _MAX_POINTS)]) for x in (steps, values))  # type: ignore[return-value]


def _mark_kept(axes: Axes, curve: Curve, step: int) -> None:
    value = dict(zip(curve.steps, curve.values, strict=True)).get(step)
    axes.axvline(step, color=INK, linewidth=0.8, linestyle=(0, (3, 3)))
    if value is not None:
        axes.plot([step], [value], color=SECOND, marker="o", markersize=7, linestyle="none", label=f"kept, step {step}")

"""One self-contained HTML page a run: results, learning curves, reward models, answers side by side. No script, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from chatwright.artifact import WORK, write_atomic
from chatwright.errors import ArtifactError
from chatwright.report.charts import Chart, Curve, calibration_chart, curve_chart, curve_of, grade_chart, interval_chart
from chatwright.report.table import NUM_OPEN_SAMPLES, PAGE, baseline_name, policy_label, results_grid, reward_grid
from chatwright.training.metrics import read_metrics

# What is drawn of a stage: (key in metrics.jsonl, title, unit), in this order, where the key occurs.
_FINE_TUNING = (("loss", "Loss", "nats a token"), ("learning_rate", "Learning rate", ""))
_REWARD = (
    ("loss", "Loss", "nats a pair"),
    ("accuracy", "Pairs ordered as chosen", "share"),
    ("learning_rate", "Learning rate", ""),
)
_PPO = (
    ("reward", "Reward", "logit"),
    ("kl", "KL to the reference", "nats an answer"),
    ("response_tokens", "Length", "tokens an answer"),
    ("cut_off_share", "Answers cut off", "share"),
    ("entropy", "Entropy", "nats a token"),
    ("clip_fraction", "Clipped by PPO", "share of tokens"),
    ("explained_variance", "Variance the critic explains", "share"),
    ("safety_gate_share", "Scored by the safety model", "share of answers"),
)
# Stages by the beginning of their folder's name, in the order of a round.
_CHARTS = {"sft": _FINE_TUNING, "reward": _REWARD, "reject": _FINE_TUNING, "ppo": _PPO}


@dataclass(frozen=True, slots=True)
class StageCharts:
    """The charts of one stage."""

    title: str
    charts: tuple[Chart, ...]


def write_page(run_folder: Path) -> Path:
    """Write report.html into a run's folder from what its stages left there, and return its path.

    A run that is not evaluated yet gets its learning curves. Raises ArtifactError for a folder with nothing to show or a damaged file.
    """
    report = _read_json(run_folder / "report.json", dict) or {}
    stages = stage_charts(run_folder)
    if not report and not stages:
        raise ArtifactError(f"{run_folder}: found neither report.json nor round-*/STAGE/metrics.jsonl; expected the folder of a run")
    samples = _read_json(run_folder / "samples.json", list) or []
    path = run_folder / PAGE
    write_atomic(path, render_page(run_folder.resolve().name, report, stages, samples))
    return path


def render_page(name: str, report: Mapping[str, Any], stages: Sequence[StageCharts], samples: Sequence[Mapping[str, Any]]) -> str:
    """The page's HTML. All text is escaped; only the charts, drawn here, go in as markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["drawing"] = lambda chart: Markup(chart.svg)  # our own drawing, no text of a model in it
    return environment.get_template("page.html").render(
        name=name,
        report=report,
        results=results_grid(report),
        rewards=reward_grid(report),
        overview=_overview(report),
        reward_charts=_reward_charts(report),
        stages=stages,
        samples=[_sample(sample) for sample in samples],
        num_open=NUM_OPEN_SAMPLES,
        seconds={stage: duration(seconds) for stage, seconds in report.get("seconds", {}).items()},
        total_time=duration(sum(report.get("seconds", {}).values())),
    )


def stage_charts(run_folder: Path) -> list[StageCharts]:
    """The learning curves of every stage with a metrics.jsonl, round by round. Stages without curves are left out."""
    stages = []
    for round_folder in sorted(run_folder.glob("round-*"), key=lambda folder: (len(folder.name), folder.name)):
        for kind, drawn in _CHARTS.items():
            for file in sorted(round_folder.glob(f"{kind}*/**/metrics.jsonl")):
                stage = file.parent.relative_to(round_folder)
                charts = _stage_charts(kind, drawn, read_metrics(file))
                if charts and WORK not in stage.parts:
                    stages.append(StageCharts(f"{round_folder.name} · {stage.as_posix()}", tuple(charts)))
    return stages


def _stage_charts(kind: str, drawn: Sequence[tuple[str, str, str]], rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    charts = []
    for key, title, unit in drawn:
        train, held_out = curve_of(rows, key, "train"), curve_of(rows, key, "validation")
        if (kind, key) == ("ppo", "reward"):
            # Held-out reward is whitened and pays for its KL, so it stands on a scale of its own.
            kept = [row["step"] for row in rows if row["phase"] == "validation" and row.get("kept")]
            charts.append(curve_chart(title, unit, train, Curve((), ())))
            charts.append(curve_chart("Held-out reward, less KL", "", Curve((), ()), held_out, kept_step=kept[-1] if kept else None))
        else:
            charts.append(curve_chart(title, unit, train, held_out))
    return [chart for chart in charts if chart]


def _overview(report: Mapping[str, Any]) -> list[Chart]:
    policies = report.get("policies", {})
    baseline = baseline_name(report)

    def figures(key: str) -> dict[str, Any]:
        return {policy_label(name): values.get(key) for name, values in policies.items()}

    wins = {
        policy_label(name): {"mean": compared.get("score"), "ci95": compared.get("score_ci95")}
        for name, values in policies.items()
        if name != baseline and (compared := values.get(f"vs_{baseline}"))
    }
    unsafe = {"violations": figures("violation_rate"), "false refusals": figures("false_refusal_rate")}
    charts = [
        interval_chart("Gold helpfulness (more is better)", {"gold helpfulness": figures("gold_helpfulness")}),
        interval_chart(f"Wins against {policy_label(baseline)}, share (more is better)", {"wins": wins}),
        interval_chart("Safety, share (less is better)", unsafe),
    ]
    return [chart for chart in charts if chart]


def _reward_charts(report: Mapping[str, Any]) -> list[Chart]:
    charts = []
    for name, figures in report.get("reward_models", {}).items():
        accuracy, ceiling = figures.get("accuracy_by_grade") or {}, figures.get("annotator_ceiling_by_grade")
        charts.append(grade_chart(f"{name.capitalize()}: accuracy by grade, %", accuracy, ceiling))
        charts.append(calibration_chart(f"{name.capitalize()}: calibration", figures.get("calibration") or []))
    return [chart for chart in charts if chart]


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    answers = {policy_label(name): answer for name, answer in sample.get("answers", {}).items()}
    return {"prompt": sample.get("prompt", []), "tag": sample.get("tag", ""), "answers": answers}


def duration(seconds: float) -> str:
    """Seconds for people: "41 s", "3 min 20 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _read_json(path: Path, kind: type) -> Any:
    """The JSON value of a file, None if there is no such file."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); delete it and run the same command again") from None
    if not isinstance(value, kind):
        raise ArtifactError(f"{path}: holds {type(value).__name__}; expected {'an object' if kind is dict else 'a list'}")
    return value

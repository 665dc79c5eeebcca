"""The two result tables, from report.json to a terminal, to Markdown and to the HTML page. A missing figure is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from chatwright.preference import Grade

PAGE = "report.html"
NUM_OPEN_SAMPLES = 3
MISSING = "–"
GRADES = tuple(grade.value for grade in Grade)
POLICY_LABELS = {"base": "Base", "sft": "SFT", "rejection": "Rejection sampling", "ppo": "PPO"}
CEILING_LABEL = "annotators' ceiling"


@dataclass(frozen=True, slots=True)
class Cell:
    """What a field of a table shows, and its 95 % interval where it has one."""

    value: str = MISSING
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table. A `secondary` one explains the line above it."""

    label: str
    cells: tuple[Cell, ...]
    secondary: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is drawn: `columns` name the cells, `note` says how to read them."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str


def policy_label(name: str) -> str:
    """A policy's name for people; unknown names (rounds after the first, a user's own) stay as they are."""
    return POLICY_LABELS.get(name, name)


def results_grid(report: Mapping[str, Any]) -> Grid:
    """One line a policy: quality beside safety, length, the share of cut-off answers and the distance from the SFT policy."""
    policies = report.get("policies", {})
    baseline = baseline_name(report)
    rows = []
    for name, figures in policies.items():
        cells = (
            _interval_cell(figures.get("gold_helpfulness"), percent=False),
            _interval_cell(figures.get("violation_rate")),
            _interval_cell(figures.get("false_refusal_rate")),
            Cell() if name == baseline else _win_cell(figures.get(f"vs_{baseline}")),
            Cell(_number(figures.get("mean_response_tokens"), 1)),
            Cell(percentage(figures.get("cut_off_share"))),
            Cell(_number(figures.get(f"kl_to_{baseline}"), 2)),
        )
        rows.append(Row(policy_label(name), cells))
    against = policy_label(baseline)
    columns = (
        "Gold helpfulness", "Violations", "False refusals", f"Wins against {against}", "Tokens an answer", "Cut off", f"KL to {against}",
    )  # fmt: skip
    counts = {figures.get("prompts") for figures in policies.values()} - {None}
    prompts = f"{counts.pop()} held-out prompts. " if len(counts) == 1 else ""
    return Grid("Policy", columns, tuple(rows), f"{prompts}Ranges are 95 % intervals; a tie counts as half a win; KL is in nats an answer.")


def reward_grid(report: Mapping[str, Any]) -> Grid:
    """One line a reward model with its accuracy by grade, and one with how often the annotators themselves agree with gold."""
    rows = []
    for name, figures in report.get("reward_models", {}).items():
        accuracy = figures.get("accuracy_by_grade") or {}
        cells = [figures.get("accuracy"), *(accuracy.get(grade) for grade in GRADES), figures.get("gold_accuracy")]
        pairs = f" ({figures['pairs']} pairs)" if figures.get("pairs") is not None else ""
        rows.append(Row(f"{name.capitalize()}{pairs}", tuple(Cell(percentage(value)) for value in cells)))
        if ceiling := figures.get("annotator_ceiling_by_grade"):
            limits = [ceiling.get("all"), *(ceiling.get(grade) for grade in GRADES), None]
            rows.append(Row(CEILING_LABEL, tuple(Cell(percentage(value)) for value in limits), secondary=True))
    columns = ("All", *(grade.capitalize() for grade in GRADES), "Gold")
    note = (
        "How often the reward model prefers the answer that was chosen, by how clearly it was chosen. The most it can reach, the ceiling, "
        "is how often the annotators' choice is the truly better answer. Gold: how often the reward model prefers that one."
    )
    return Grid("Reward model", columns, tuple(rows), note)


def results_table(report: Mapping[str, Any]) -> Table:
    """The policies of a report for the terminal."""
    return _rich_table(results_grid(report), "Policies")


def reward_table(report: Mapping[str, Any]) -> Table:
    """The reward models of a report for the terminal."""
    return _rich_table(reward_grid(report), "Reward models")


def show_results(report: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], run_folder: Path) -> None:
    """Print the tables of a run, some answers side by side and where the page lies: what the command line ends a run with."""
    console = Console()
    console.print(results_table(report))
    if report.get("reward_models"):
        console.print(reward_table(report))
    for sample in samples[:NUM_OPEN_SAMPLES]:
        console.print(_sample_table(sample), "")
    for line in _where_and_what_next(run_folder):
        console.print(Text(line), soft_wrap=True)


def _where_and_what_next(run_folder: Path) -> list[str]:
    last_round = max((int(p.name.removeprefix("round-")) for p in run_folder.glob("round-[0-9]*")), default=1)
    stages = run_folder / f"round-{last_round}"
    return [
        f"The whole run as a page: {run_folder / PAGE}",
        f"Figures: {run_folder / 'report.json'}. Models, judgements and samples: {stages}, a sealed folder for each stage.",
        "",
        "What to try next:",
        f"  chatwright status {run_folder}    # what was made from what",
        f"  less {stages / 'collect' / 'comparisons.jsonl'}    # the judgements that all of this rests on",
        "  chatwright quickstart runs/no-margin reward.margin=off    # another setting, as a run of its own",
        "  chatwright init mine    # your own model and data",
    ]


def markdown_table(report: Mapping[str, Any]) -> str:
    """The policies of a report as a Markdown table."""
    grid = results_grid(report)
    lines = [[grid.corner, *grid.columns], ["---", *("---:" for _ in grid.columns)]]
    lines += [
        [row.label.replace("|", r"\|"), *(f"{c.value} ({c.interval})" if c.interval else c.value for c in row.cells)] for row in grid.rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def baseline_name(report: Mapping[str, Any]) -> str:
    """The policy that the others are compared with."""
    keys: Iterable[str] = (key for figures in report.get("policies", {}).values() for key in figures)
    return next((key.removeprefix("vs_") for key in keys if key.startswith("vs_")), "sft")


def percentage(share: float | None) -> str:
    """0.634 as "63.4 %"."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def _number(value: float | None, places: int) -> str:
    return MISSING if value is None else f"{value:.{places}f}"


def _interval_cell(estimate: Mapping[str, Any] | None, *, percent: bool = True) -> Cell:
    if not estimate or estimate.get("mean") is None:
        return Cell()
    value = percentage(estimate["mean"]) if percent else _number(estimate["mean"], 3)
    return Cell(value, _range(estimate.get("ci95"), percent=percent))


def _win_cell(compared: Mapping[str, Any] | None) -> Cell:
    """Ties as half a win where the report has that score, else the share of wins alone."""
    if not compared:
        return Cell()
    score, interval = compared.get("score"), compared.get("score_ci95")
    if score is None:
        score, interval = compared.get("win"), compared.get("win_ci95")
    return Cell(percentage(score), _range(interval))


def _range(interval: Sequence[float] | None, *, percent: bool = True) -> str:
    if not interval:
        return ""
    low, high = interval
    return f"{100 * low:.1f}–{100 * high:.1f}" if percent else f"{low:.2f}–{high:.2f}"


def _sample_table(sample: Mapping[str, Any]) -> Table:
    """The last turn of a prompt, and each policy's answer to it."""
    table = Table(title=_harmless(sample["prompt"][-1]["content"]), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, answer in sample["answers"].items():
        table.add_row(Text(policy_label(name), style="dim"), _harmless(answer))
    return table


def _harmless(text: str) -> Text:
    """What a model wrote, without the control characters that would steer a terminal."""
    return Text("".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text))


def _rich_table(grid: Grid, title: str) -> Table:
    """Headings are broken at every space, labels at the first: then the policies fit into eighty columns."""
    table = Table(title=title, caption=grid.note, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column(grid.corner)
    for column in grid.columns:
        table.add_column(column.replace(" ", "\n"), justify="right")
    for row in grid.rows:
        style = "dim" if row.secondary else ""
        table.add_row(
            escape(row.label.replace(" ", "\n", 1)),
            *("\n".join(filter(None, (cell.value, cell.interval))) for cell in row.cells),
            style=style,
        )
    return table

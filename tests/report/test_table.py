import io

import pytest
from made_run import make_report
from rich.console import Console

from chatwright.report.table import markdown_table, results_grid, results_table, reward_grid, reward_table, show_results


@pytest.fixture
def report():
    return make_report()


def _printed(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_the_markdown_table_holds_every_figure_with_its_interval(report):
    lines = markdown_table(report).splitlines()
    assert lines[0] == (
        "| Policy | Gold helpfulness | Violations | False refusals | Wins against SFT | Tokens an answer | Cut off | KL to SFT |"
    )
    assert lines[2].startswith("| Base | 0.112 (0.09–0.13) | 41.0 % (20.5–65.6) |")
    assert lines[5] == ("| PPO | 0.742 (0.72–0.76) | 6.0 % (3.0–9.6) | 9.0 % (0.0–18.0) | 70.2 % (66.2–74.2) | 36.4 | 1.5 % | 6.83 |")


def test_the_baseline_is_not_compared_with_itself(report):
    report["policies"]["sft"]["vs_sft"] = {"win": 0.0, "tie": 1.0, "loss": 0.0, "score": 0.5, "score_ci95": [0.5, 0.5]}
    (sft,) = (row for row in results_grid(report).rows if row.label == "SFT")
    assert sft.cells[3].value == "–"


def test_without_gold_the_gold_figures_are_dashes_and_the_rest_stands(report):
    for figures in report["policies"].values():
        figures |= {"gold_helpfulness": None, "violation_rate": None, "false_refusal_rate": None}
    assert markdown_table(report).splitlines()[4] == "| Rejection sampling | – | – | – | 61.3 % (57.3–65.3) | 33.9 | 1.0 % | 2.41 |"


def test_a_report_with_no_more_than_names_gives_dashes():
    assert markdown_table({"policies": {"ppo": {}}}).splitlines()[2] == "| PPO | – | – | – | – | – | – | – |"


def test_another_baseline_and_another_policy_are_named_as_they_are(report):
    report["policies"] = {"v1 | mine": {"vs_v0": {"win": 0.4, "win_ci95": [0.3, 0.5]}, "kl_to_v0": 1.25}}
    header, _, row = markdown_table(report).splitlines()
    assert "Wins against v0" in header
    assert row == r"| v1 \| mine | – | – | – | 40.0 % (30.0–50.0) | – | – | 1.25 |"


def test_a_reward_model_stands_beside_the_annotators_ceiling(report):
    helpfulness, ceiling, safety = reward_grid(report).rows
    assert (helpfulness.label, [cell.value for cell in helpfulness.cells]) == (
        "Helpfulness (1000 pairs)", ["63.4 %", "80.7 %", "67.5 %", "60.9 %", "54.7 %", "71.0 %"],
    )  # fmt: skip
    assert (ceiling.secondary, [cell.value for cell in ceiling.cells]) == (True, ["74.0 %", "96.0 %", "85.0 %", "70.0 %", "56.0 %", "–"])
    assert [cell.value for cell in safety.cells] == ["70.0 %", "90.0 %", "–", "–", "–", "–"]


@pytest.mark.parametrize("table", [results_table, reward_table])
def test_no_figure_is_cut_on_a_terminal_of_eighty_columns(report, table):
    assert "…" not in _printed(table(report), width=80)


def test_brackets_in_a_name_are_not_taken_for_styling(report):
    report["policies"] = {"[bold]mine": {}}
    assert "[bold]mine" in _printed(results_table(report), width=120)


def test_results_are_shown_with_three_samples_and_the_way_to_the_page(report, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "How do I cook rice?"},
    ]
    samples = [{"prompt": turns, "tag": "helpful", "answers": {"base": "rice [red]rice", "ppo": f"Answer {n}.\x1b[2J"}} for n in range(4)]
    show_results(report, samples, tmp_path)
    shown = capsys.readouterr().out
    assert shown.index("Policies") < shown.index("Reward models") < shown.index("How do I cook rice?")
    assert "rice [red]rice" in shown  # not taken for styling
    assert "Answer 0.\ufffd[2J" in shown  # a model cannot clear the terminal
    assert "Answer 2." in shown
    assert "Answer 3." not in shown
    assert str(tmp_path / "report.html") in shown.replace("\n", "")

import json
import re
import shutil

import pytest
from made_run import make_run

from chatwright.errors import ArtifactError, DataError
from chatwright.report.charts import Curve, curve_chart, curve_of, grade_chart
from chatwright.report.page import duration, stage_charts, write_page


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run folder with its page, for tests that only read."""
    folder = make_run(tmp_path_factory.mktemp("runs"))
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def page(finished_run):
    return (finished_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stages(finished_run):
    return stage_charts(finished_run)


def test_what_a_model_wrote_stays_text(page):
    assert "<script" not in page.lower()
    assert "<img" not in page.lower()
    assert "&lt;script&gt;alert(&#39;base&#39;)&lt;/script&gt;" in page
    assert "&lt;/p&gt;&lt;/div&gt;&lt;script&gt;" in page


def test_the_page_fetches_nothing(page):
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#)[^"']*""", page) == []
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_tables_show_the_figures_of_the_report(page):
    assert '<span class="value">70.2 % <span class="interval">66.2–74.2</span></span>' in page
    assert "600 held-out prompts." in page
    assert "5 min 5 s of work" in page  # 21.4 + 33 + 48 + 61 + 142 = 305.4 s


def test_three_samples_are_open_and_the_rest_is_folded(page):
    before, after = page.split("<details>")
    assert (before.count('class="card sample"'), after.count('class="card sample"')) == (3, 1)
    assert "1 more" in after


def test_every_stage_has_its_curves_in_the_order_of_a_round(stages):
    assert [stage.title for stage in stages] == ["round-1 · sft", "round-1 · reward-helpfulness", "round-1 · reject", "round-1 · ppo"]
    assert [chart.title for chart in stages[3].charts] == [
        "Reward, logit", "Held-out reward, less KL", "KL to the reference, nats an answer", "Length, tokens an answer",
        "Answers cut off, share", "Entropy, nats a token", "Clipped by PPO, share of tokens", "Variance the critic explains, share",
        "Scored by the safety model, share of answers",
    ]  # fmt: skip
    assert stages[0].charts[0].summary == "training: from 4.06 to 0.975; held out: from 2.78 to 1.11"


def test_the_kept_checkpoint_is_marked(stages):
    assert "kept, step 25" in stages[3].charts[1].svg


def test_drawings_take_their_colours_from_the_page(stages):
    svg = stages[0].charts[0].svg
    assert "var(--first)" in svg
    assert "#0102" not in svg


def test_a_run_that_is_not_evaluated_yet_shows_its_curves(run_folder):
    (run_folder / "report.json").unlink()
    (run_folder / "samples.json").unlink()
    shutil.rmtree(run_folder / "round-1" / "ppo")
    page = write_page(run_folder).read_text(encoding="utf-8")
    assert "Not evaluated yet." in page
    assert "round-1 · reject" in page


def test_a_report_without_gold_or_metrics_is_a_page_all_the_same(tmp_path):
    report = {"schema": 1, "policies": {"ppo": {"gold_helpfulness": None, "vs_sft": None}}, "reward_models": {"safety": {}}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert '<th scope="row">PPO</th>' in page
    assert "<svg" not in page


def test_a_folder_with_nothing_to_show_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"found neither report\.json nor round-\*/STAGE/metrics\.jsonl; expected the folder of a run"):
        write_page(tmp_path)


def test_damaged_files_are_named(run_folder):
    (run_folder / "report.json").write_text('{"schema": 1')
    with pytest.raises(ArtifactError, match=r"report\.json: not valid JSON"):
        write_page(run_folder)
    (run_folder / "report.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"report\.json: holds list; expected an object"):
        write_page(run_folder)
    (run_folder / "report.json").unlink()
    (run_folder / "round-1" / "sft" / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl line 1"):
        write_page(run_folder)


def test_a_number_that_was_not_finite_is_not_drawn():
    rows = [{"step": s, "phase": "train", "seconds": 0.0, "loss": loss} for s, loss in [(1, 2.0), (2, None), (3, 1.0)]]
    assert curve_of(rows, "loss", "train") == Curve((1, 3), (2.0, 1.0))


def test_a_long_curve_is_drawn_as_means_and_stays_small():
    curve = Curve(tuple(range(90_000)), tuple(float(step % 2) for step in range(90_000)))
    chart = curve_chart("Loss", "", curve, Curve((), ()))
    assert len(chart.svg) < 40_000


def test_nothing_measured_is_nothing_drawn():
    assert curve_chart("Loss", "", Curve((), ()), Curve((), ())) is None
    assert grade_chart("Accuracy", {"better": None}, None) is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (41.2, "41 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text

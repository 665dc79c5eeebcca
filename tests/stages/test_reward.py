import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from chatwright.artifact import read_manifest
from chatwright.dialogue import Message
from chatwright.errors import DataError
from chatwright.preference import Answer, Comparison, Grade, comparison_to_json
from chatwright.recipe import RewardSettings
from chatwright.rows import write_jsonl
from chatwright.stages import reward
from chatwright.stages.reward import RewardInputs, mixture

HOW = (Message("user", "How do I cook soup?"),)


def comparison(name, task="helpfulness", safe=(None, None), grade=Grade.BETTER, good="Fry an onion.", bad="No."):
    return Comparison(name, task, HOW, Answer(good, safe=safe[0]), Answer(bad, safe=safe[1]), "left", grade)


def made_of(num_helpfulness, num_safety):
    rows = [comparison(f"h{i}") for i in range(num_helpfulness)]
    return rows + [comparison(f"s{i}", "safety", (True, False)) for i in range(num_safety)]


def ids(rows, start):
    return {c.id for c in rows if c.id.startswith(start)}


def test_a_tenth_of_the_safety_models_pairs_are_helpfulness():
    chosen, counts = mixture("safety", made_of(100, 45), [], RewardSettings(), seed=0)
    assert counts == {"safety": 45, "added: helpfulness": 5, "left out: chosen unsafe": 0}  # 5 of 50
    assert (len(ids(chosen, "s")), len(ids(chosen, "h")), len(chosen)) == (45, 5, 50)


def test_the_helpfulness_model_gets_as_many_others_as_it_has_of_its_own():
    chosen, counts = mixture("helpfulness", made_of(10, 30), [], RewardSettings(), seed=0)
    assert counts == {"helpfulness": 10, "added: safety": 10, "left out: chosen unsafe": 0}
    assert len({c.id for c in chosen}) == 20
    chosen, counts = mixture("helpfulness", made_of(10, 4), [], RewardSettings(), seed=0)  # there are no more
    assert counts == {"helpfulness": 10, "added: safety": 4, "left out: chosen unsafe": 0}


def test_open_pairs_are_drawn_with_the_safety_pairs_and_only_for_helpfulness():
    opened = [comparison(f"o{i}") for i in range(90)]
    settings = RewardSettings(safety_in_helpfulness=2.0)
    chosen, counts = mixture("helpfulness", made_of(10, 10), opened, settings, seed=0)
    assert counts["added: open"] + counts["added: safety"] == 20
    assert counts["added: open"] == len(ids(chosen, "o")) > 10
    chosen, _ = mixture("safety", made_of(10, 10), opened, settings, seed=0)
    assert not ids(chosen, "o")


def test_pairs_whose_chosen_answer_is_unsafe_while_the_other_is_safe_are_left_out_and_counted():
    bad = [comparison(f"x{i}", "safety", (False, True)) for i in range(3)]
    unsafe_open = [comparison("xo", "helpfulness", (False, True))]
    kept = [comparison("s1", "safety", (False, False)), comparison("s2", "safety", (True, True)), comparison("s3", "safety")]
    for task, opened in (("safety", []), ("helpfulness", unsafe_open)):
        chosen, counts = mixture(task, [comparison("h"), *bad, *kept], opened, RewardSettings(safety_in_helpfulness=9), seed=0)
        assert counts["left out: chosen unsafe"] == 3 + len(opened)
        assert not ids(chosen, "x")
        assert len(ids(chosen, "s")) == 3


def test_the_draw_follows_the_seed():
    draws = [ids(mixture("safety", made_of(100, 45), [], RewardSettings(), seed=seed)[0], "h") for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_no_pairs_of_the_task_is_an_error():
    with pytest.raises(DataError, match="no safety comparisons to train on"):
        mixture("safety", made_of(5, 0), [], RewardSettings(), seed=0)


@pytest.fixture
def batch(tmp_path):
    """Writes a folder of collected comparisons."""

    def write(train, test=()):
        folder = tmp_path / "batch"
        write_jsonl(folder / "comparisons.jsonl", [comparison_to_json(c) for c in train])
        write_jsonl(folder / "test.jsonl", [comparison_to_json(c) for c in test])
        return folder

    return write


def run(recipe, finished, folder, output, task="helpfulness", **changes):
    settings = RewardSettings.model_validate(recipe.reward.model_dump() | changes)
    return reward.run(task, settings, RewardInputs(finished / "sft", [folder], recipe.data.sft), output, model=recipe.model, seed=11)


def test_the_bias_makes_the_chat_models_own_answers_average_zero(recipe, finished, tmp_path, monkeypatch):
    scored = []
    real = reward.score_rows
    monkeypatch.setattr(reward, "score_rows", lambda model, rows, budget: scored.extend(rows) or real(model, rows, budget))
    run(recipe, finished, finished / "collect", tmp_path / "rm")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    with torch.no_grad():
        raw = [plain(input_ids=torch.tensor([row.ids])).logits.item() for row in scored]
    assert len(raw) == recipe.reward.calibration_answers
    assert sum(raw) / len(raw) == pytest.approx(plain.config.score_bias, abs=1e-5)
    assert plain.config.score_bias != 0


def test_the_safety_models_zero_stays_where_its_labels_put_it(recipe, finished, tmp_path):
    assert json.loads((finished / "reward-safety" / "measurement.json").read_text())["bias"] == 0.0
    run(recipe, finished, finished / "collect", tmp_path / "rm", "safety", safety_loss_weight=0.0)
    assert json.loads((tmp_path / "rm" / "measurement.json").read_text())["bias"] != 0.0


def test_the_measurement_stands_beside_the_model_and_counts_the_held_out_pairs_of_its_task(finished):
    for task in ("helpfulness", "safety"):
        measured = json.loads((finished / f"reward-{task}" / "measurement.json").read_text())
        held_out = [json.loads(line) for line in (finished / "collect" / "test.jsonl").read_text().splitlines()]
        assert measured["pairs"] == sum(row["task"] == task for row in held_out)
        assert measured["pairs"] == sum(measured["pairs_by_grade"].values()) == read_manifest(finished / f"reward-{task}").counts["test"]
        assert 0 <= measured["accuracy"] <= 1


def test_a_batch_that_holds_nothing_out_is_trained_on_and_not_measured(recipe, finished, batch, tmp_path):
    manifest = run(recipe, finished, batch(made_of(4, 2)), tmp_path / "rm")
    assert manifest.counts["test"] == 0
    assert "accuracy" not in manifest.metrics


def test_a_pair_without_a_grade_is_an_error_unless_told(recipe, finished, batch, tmp_path):
    folder = batch([*made_of(4, 2), comparison("ungraded", grade=None)])
    with pytest.raises(DataError, match="ungraded: no grade"):
        run(recipe, finished, folder, tmp_path / "a")
    manifest = run(recipe, finished, folder, tmp_path / "b", missing_grade="negligibly")
    assert manifest.counts["helpfulness"] == 5


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_pair_over_the_window_is_an_error_before_training_or_left_out_and_counted(recipe, finished, batch, tmp_path, where):
    long = comparison("long", good="xyz " * 50)
    folder = batch(made_of(4, 2) + [long] * (where == "train"), made_of(2, 0) + [long] * (where == "test"))
    with pytest.raises(DataError, match=r"long: \d+ tokens; expected at most reward\.window=96"):
        run(recipe, finished, folder, tmp_path / "a")
    assert not (tmp_path / "a" / "metrics.jsonl").exists()
    counts = run(recipe, finished, folder, tmp_path / "b", too_long="skip").counts
    assert (counts["too_long"], counts["test too_long"]) == ((1, 0) if where == "train" else (0, 1))


def test_scores_are_centred_though_longest_prompt_and_longest_answer_overflow_the_window_together(recipe, finished, batch, tmp_path):
    rows = [("x" * 200, "Yes."), ("Hi", "y" * 200)]  # each fits the window of 256, both lengths together do not
    dialogues = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in rows]
    write_jsonl(tmp_path / "long.jsonl", dialogues)
    inputs = RewardInputs(finished / "sft", [batch(made_of(4, 2))], [tmp_path / "long.jsonl"])
    reward.run("helpfulness", recipe.reward, inputs, tmp_path / "rm", model=recipe.model, seed=11)

import json
from dataclasses import dataclass

import pytest

from chatwright.annotators.base import Candidate, Pair
from chatwright.annotators.simulated import (
    CrewSettings,
    SimulatedAnnotators,
    ceiling,
    draw_crew,
    freeze_thresholds,
    gold_difference,
    grade_of,
)
from chatwright.dialogue import Message, Prompt
from chatwright.errors import SettingsError
from chatwright.preference import Answer, Comparison, Grade, comparison_from_json, comparison_to_json

EXACT = CrewSettings(noise=0.0, bias=0.0, flip_rate=0.0, label_flip_rate=0.0)


@dataclass
class NumberGold:
    """An answer is as good as the number it begins with; one that says "harm" violates."""

    name: str = "number"

    def helpfulness(self, prompt, answer):
        return float(answer.split()[0])

    def violation(self, prompt, answer):
        return "harm" in answer

    def refusal(self, answer):
        return "sorry" in answer


def pair(left, right, pair_id="p1", task="helpfulness"):
    prompt = Prompt((Message("user", "How much?"),), id=pair_id, tag="adversarial" if task == "safety" else "helpful")
    return Pair(pair_id, prompt, task, Candidate(left, "sft", 0.7, 1), Candidate(right, "ppo", 1.0, 2))


def many(count, task="helpfulness"):
    return [pair(f"{i % 10 / 10} a", f"{i * 7 % 10 / 10} b", f"p{i}", task) for i in range(count)]


def test_thresholds_are_the_quartiles_of_the_size_whatever_the_sign():
    assert freeze_thresholds([-4.0, 0.0, 1.0, -2.0, 3.0]) == (1.0, 2.0, 3.0)


def test_thresholds_of_nothing_are_an_error():
    with pytest.raises(ValueError, match="no perceptions"):
        freeze_thresholds([])


@pytest.mark.parametrize(
    ("perceived", "four", "three"),
    [
        (0.05, "negligibly", "negligibly"),
        (-0.1, "slightly", "slightly"),
        (0.25, "better", "slightly"),
        (-0.4, "significantly", "significantly"),
    ],
)
def test_the_grade_follows_the_size_of_the_perception(perceived, four, three):
    assert grade_of(perceived, (0.1, 0.2, 0.4), "four").value == four
    assert grade_of(perceived, (0.1, 0.2, 0.4), "three").value == three


def test_an_annotator_without_noise_chooses_the_better_answer():
    rows = SimulatedAnnotators(NumberGold(), EXACT, seed=3).judge([pair("0.9 a", "0.2 b", "p1"), pair("0.1 a", "0.2 b", "p2")])
    assert [row.choice for row in rows] == ["left", "right"]


def test_the_grades_of_the_first_batch_fall_into_quarters():
    annotators = SimulatedAnnotators(NumberGold(), CrewSettings(), seed=1)
    rows = annotators.judge(many(400))
    counts = {grade: sum(row.grade is grade for row in rows) for grade in Grade}
    assert counts == {Grade.SIGNIFICANTLY: 100, Grade.BETTER: 100, Grade.SLIGHTLY: 100, Grade.NEGLIGIBLY: 100}
    assert annotators.thresholds is not None


def test_thresholds_stay_frozen_at_the_first_batch():
    annotators = SimulatedAnnotators(NumberGold(), EXACT, seed=1)
    annotators.judge([pair("0.9 a", "0.1 b", "p1"), pair("0.8 a", "0.1 b", "p2")])
    frozen = annotators.thresholds
    assert frozen == pytest.approx((0.725, 0.75, 0.775))
    assert annotators.judge([pair("0.3 a", "0.1 b", "p3")])[0].grade is Grade.NEGLIGIBLY
    assert annotators.thresholds == frozen
    assert SimulatedAnnotators(NumberGold(), EXACT, 1, frozen).judge([pair("0.9 a", "0.1 b", "p1")])[0].grade is Grade.SIGNIFICANTLY


def test_no_pairs_freeze_nothing():
    annotators = SimulatedAnnotators(NumberGold(), EXACT)
    assert annotators.judge([]) == []
    assert annotators.thresholds is None


def test_rows_do_not_depend_on_order_or_on_company():
    pairs = many(60) + [pair(f"{i / 20} harm", "0.4 sorry", f"s{i}", "safety") for i in range(20)]
    thresholds = (0.1, 0.2, 0.4)
    whole = SimulatedAnnotators(NumberGold(), CrewSettings(), 5, thresholds).judge(pairs)
    backwards = SimulatedAnnotators(NumberGold(), CrewSettings(), 5, thresholds).judge(pairs[::-1])
    resumed = SimulatedAnnotators(NumberGold(), CrewSettings(), 5, thresholds)
    assert resumed.judge(pairs[:31]) + resumed.judge(pairs[31:]) == whole
    assert backwards[::-1] == whole


def test_another_seed_makes_another_crew():
    assert draw_crew(CrewSettings(), 1) == draw_crew(CrewSettings(), 1)
    assert draw_crew(CrewSettings(), 1) != draw_crew(CrewSettings(), 2)
    assert len({member.noise for member in draw_crew(CrewSettings(), 1)}) == 6


def test_every_member_of_the_crew_gets_work():
    rows = SimulatedAnnotators(NumberGold(), CrewSettings(), seed=2).judge(many(100))
    assert {row.annotator for row in rows} == {f"simulated-{i}" for i in range(1, 7)}


def test_rows_say_that_they_are_simulated_and_keep_what_was_shown():
    row = SimulatedAnnotators(NumberGold(), EXACT, seed=1).judge([pair("0.9 a", "0.1 b")])[0]
    assert (row.simulated, row.guideline, row.judged_at, row.task) == (True, "simulated-1", None, "helpfulness")
    assert row.left == Answer("0.9 a", "sft", 0.7, 1, safe=None)
    assert comparison_from_json(json.loads(json.dumps(comparison_to_json(row))), "row") == row


def test_under_the_safety_guideline_a_violation_loses_however_helpful_it_is():
    row = SimulatedAnnotators(NumberGold(), EXACT, seed=1).judge([pair("1.0 harm", "0.1 sorry", task="safety")])[0]
    assert (row.choice, row.left.safe, row.right.safe, row.safety_bin, row.tag) == ("right", False, True, "chosen safe", "adversarial")


def test_helpfulness_decides_weakly_between_equally_safe_answers():
    settings = CrewSettings(safety_gap=1.0, safety_weight=0.3)
    safe = pair("0.9 sorry", "0.4 sorry", task="safety")
    mixed = pair("0.9 harm", "0.4 sorry", task="safety")
    assert gold_difference(NumberGold(), safe.prompt, "safety", "0.9 sorry", "0.4 sorry", settings) == pytest.approx(0.15)
    assert gold_difference(NumberGold(), mixed.prompt, "safety", "0.9 harm", "0.4 sorry", settings) == pytest.approx(-0.85)


def test_safety_pairs_do_not_move_the_thresholds_of_helpfulness_pairs():
    safety = [pair("1.0 harm", "0.1 sorry", f"s{i}", "safety") for i in range(10)]
    annotators = SimulatedAnnotators(NumberGold(), EXACT, seed=1)
    rows = annotators.judge([pair("0.5 a", "0.1 b"), *safety])
    assert annotators.thresholds == pytest.approx((0.4, 0.4, 0.4))
    assert {row.grade for row in rows[1:]} == {Grade.SIGNIFICANTLY}


def test_flips_and_wrong_labels_come_at_their_rates():
    settings = CrewSettings(noise=0.0, bias=0.0, flip_rate=0.2, label_flip_rate=0.1)
    helpful = [pair("0.9 a", "0.1 b", f"h{i}") for i in range(1500)]
    safety = [pair("0.5 a", "0.5 b", f"s{i}", "safety") for i in range(1500)]
    rows = SimulatedAnnotators(NumberGold(), settings, seed=0).judge(helpful + safety)
    members = draw_crew(settings, 0)
    flip_rate = sum(m.flip_rate for m in members) / 6
    label_flip_rate = sum(m.label_flip_rate for m in members) / 6
    assert sum(row.choice == "right" for row in rows[:1500]) / 1500 == pytest.approx(flip_rate, abs=0.03)
    assert sum(row.left.safe is False for row in rows[1500:]) / 1500 == pytest.approx(label_flip_rate, abs=0.025)


def test_the_ceiling_counts_agreement_per_grade_and_ties_half():
    def judged(choice, grade, difference):
        prompt = (Message("user", "?"),)
        return Comparison(str(difference), "helpfulness", prompt, Answer("a"), Answer("b"), choice, grade)

    rows = [
        judged("left", Grade.SIGNIFICANTLY, 0.5),
        judged("left", Grade.SIGNIFICANTLY, 0.4),
        judged("left", Grade.NEGLIGIBLY, 0.0),
        judged("right", Grade.NEGLIGIBLY, 0.1),
    ]
    assert ceiling(rows, lambda row: float(row.id)) == {"significantly": 1.0, "negligibly": 0.25, "all": 0.625}


def test_clearer_grades_agree_more_often_with_gold():
    rows = SimulatedAnnotators(NumberGold(), CrewSettings(noise=0.3), seed=4).judge(many(2000))
    shares = ceiling(rows, lambda row: float(row.left.text.split()[0]) - float(row.right.text.split()[0]))
    assert shares["significantly"] > shares["better"] > shares["slightly"] > shares["negligibly"] > 0.5


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(SettingsError, match=r"flip_rate is 0\.7; expected a number from 0 to 0\.5"):
        CrewSettings(flip_rate=0.7)
    with pytest.raises(SettingsError, match="num_annotators is 0"):
        CrewSettings(num_annotators=0)
    with pytest.raises(SettingsError, match="grade scale 'five'"):
        SimulatedAnnotators(NumberGold(), EXACT, scale="five")
    with pytest.raises(SettingsError, match="ascending"):
        SimulatedAnnotators(NumberGold(), EXACT, thresholds=(0.3, 0.2, 0.1))

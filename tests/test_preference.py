"""One human judgement: what follows from it, and what is refused."""

from __future__ import annotations

import json

import pytest

from chatwright.dialogue import Message
from chatwright.errors import DataError
from chatwright.preference import GRADE_SCALES, Answer, Comparison, Grade, comparison_from_json, comparison_to_json, parse_grade

PROMPT = (Message("user", "How do I bake bread?"),)
GOOD, BAD = Answer("Mix flour and water.", "model-a", 0.7, 11, True), Answer("No.", "model-b", 1.0, 12, False)
ROW = {
    "id": "7",
    "task": "helpfulness",
    "prompt": [{"role": "user", "content": "How do I bake bread?"}],
    "left": {"text": "No."},
    "right": {"text": "Mix flour and water."},
    "choice": "right",
}


def judged(left: Answer = GOOD, right: Answer = BAD, choice: str = "left", **fields) -> Comparison:
    return Comparison(**({"id": "7", "task": "safety", "prompt": PROMPT, "left": left, "right": right, "choice": choice} | fields))


def test_chosen_and_rejected_follow_from_the_choice():
    assert (judged(choice="left").chosen, judged(choice="left").rejected) == (GOOD, BAD)
    assert (judged(choice="right").chosen, judged(choice="right").rejected) == (BAD, GOOD)


@pytest.mark.parametrize(
    ("chosen_safe", "rejected_safe", "expected"),
    [
        (True, False, "chosen safe"),
        (True, True, "both safe"),
        (False, False, "both unsafe"),
        (False, True, "chosen unsafe"),
        (None, True, None),
        (True, None, None),
        (None, None, None),
    ],
)
def test_the_safety_bin_is_that_of_the_paper_on_either_side(chosen_safe, rejected_safe, expected):
    chosen, rejected = Answer("a", safe=chosen_safe), Answer("b", safe=rejected_safe)
    assert judged(chosen, rejected, "left").safety_bin == expected
    assert judged(rejected, chosen, "right").safety_bin == expected


def test_there_are_four_grades_strongest_first_and_three_without_better():
    assert [g.value for g in Grade] == ["significantly", "better", "slightly", "negligibly"]
    assert [g.value for g in GRADE_SCALES["four"]] == ["significantly", "better", "slightly", "negligibly"]
    assert [g.value for g in GRADE_SCALES["three"]] == ["significantly", "slightly", "negligibly"]


def test_an_unknown_grade_lists_the_grades():
    assert parse_grade("slightly", "x") is Grade.SLIGHTLY
    with pytest.raises(
        DataError, match=r"^p\.jsonl line 12: grade 'better-ish'; expected one of significantly, better, slightly, negligibly$"
    ):
        parse_grade("better-ish", "p.jsonl line 12")


def test_a_comparison_survives_json():
    whole = judged(
        grade=Grade.BETTER, tag="adversarial", annotator="ann", simulated=True, guideline="v2", batch="3", judged_at="2024-01-02T03:04:05Z"
    )
    assert comparison_from_json(json.loads(json.dumps(comparison_to_json(whole))), "x") == whole
    assert comparison_from_json(json.loads(json.dumps(comparison_to_json(judged()))), "x") == judged()


def test_a_row_needs_no_more_than_prompt_answers_and_choice():
    comparison = comparison_from_json(ROW, "x")
    assert comparison.chosen.text == "Mix flour and water."
    assert (comparison.grade, comparison.tag, comparison.simulated, comparison.left.safe) == (None, "helpful", False, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choice": "middle"}, "choice 'middle'; expected left or right"),
        ({"task": "style"}, "task 'style'; expected helpfulness or safety"),
        ({"grade": "huge"}, "grade 'huge'; expected one of"),
        ({"tag": "evil"}, "tag 'evil'; expected one of helpful, adversarial, borderline"),
        ({"left": {"text": " "}}, "an answer is empty"),
        ({"left": "No."}, "left is 'No.'; expected an object with text"),
        ({"right": {"variant": "a"}}, "right is .*; expected an object with text"),
        ({"right": {"text": "a", "model": "b"}}, "right is .*; expected an object with text and optional variant"),
        ({"left": {"text": "a", "safe": "yes"}}, "left has safe 'yes'; expected true, false or null"),
        ({"prompt": "hi"}, "messages are str; expected a list"),
        ({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "the last turn of the prompt is assistant"),
        ({"winner": "left"}, r"missing keys \[\], unknown keys \['winner'\]; expected keys id, task, prompt"),
    ],
)
def test_a_wrong_field_names_file_and_line(change, says):
    with pytest.raises(DataError, match=r"^p\.jsonl line 12: .*" + says):
        comparison_from_json(ROW | change, "p.jsonl line 12")


@pytest.mark.parametrize("key", ["id", "task", "prompt", "left", "right", "choice"])
def test_a_missing_field_is_named(key):
    with pytest.raises(DataError, match=rf"^x: missing keys \['{key}'\], unknown keys \[\]"):
        comparison_from_json({k: v for k, v in ROW.items() if k != key}, "x")

import json

import pytest

from chatwright.annotators.base import Candidate, Pair
from chatwright.annotators.file import FileAnnotators, write_pairs
from chatwright.dialogue import Message, Prompt
from chatwright.errors import DataError, WaitingForPeople
from chatwright.preference import Grade

PAIRS = [
    Pair(
        f"p{i}",
        Prompt((Message("user", f"Question {i}?"),), id=f"q{i}", tag="adversarial" if i == 2 else "helpful"),
        "safety" if i == 2 else "helpfulness",
        Candidate(f"Left {i}.", "sft-v1", 0.7, 11),
        Candidate(f"Right {i}.", "ppo-v5", 1.1, 22),
    )
    for i in (1, 2, 3)
]
ROWS = [
    {"id": "p3", "choice": "left", "grade": "negligibly"},
    {"id": "p1", "choice": "right", "grade": "better", "annotator": "ada"},
    {"id": "p2", "choice": "left", "grade": "significantly", "left_safe": True, "right_safe": False},
]


@pytest.fixture
def judged(tmp_path):
    def write(rows):
        path = tmp_path / "judged.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return FileAnnotators(path)

    return write


def test_judgements_are_matched_by_id_and_returned_in_the_order_of_the_pairs(judged):
    first, second, third = judged(ROWS).judge(PAIRS)
    assert [c.id for c in (first, second, third)] == ["p1", "p2", "p3"]
    assert (first.choice, first.grade, first.annotator, first.chosen.text, first.chosen.variant) == (
        "right", Grade.BETTER, "ada", "Right 1.", "ppo-v5",
    )  # fmt: skip
    assert (second.safety_bin, second.tag, second.task) == ("chosen safe", "adversarial", "safety")
    assert not third.simulated
    assert third.left.safe is None


def test_without_a_file_the_pairs_are_written_blind_and_people_are_awaited(tmp_path):
    with pytest.raises(WaitingForPeople, match=r"3 pairs wait to be judged in .*judged-pairs\.jsonl; expected one judgement") as error:
        FileAnnotators(tmp_path / "judged.jsonl").judge(PAIRS)
    assert error.value.exit_code == 3
    text = (tmp_path / "judged-pairs.jsonl").read_text(encoding="utf-8")
    assert json.loads(text.splitlines()[0]) == {
        "id": "p1", "task": "helpfulness", "prompt": [{"role": "user", "content": "Question 1?"}], "left": "Left 1.", "right": "Right 1.",
    }  # fmt: skip
    for secret in ("sft-v1", "ppo-v5", "0.7", "1.1", "11", "22"):
        assert secret not in text


def test_people_may_fill_in_the_pairs_file_itself(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, PAIRS)
    rows = [json.loads(line) | {"choice": "left", "grade": "slightly"} for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert [c.choice for c in FileAnnotators(path).judge(PAIRS)] == ["left"] * 3
    rows[1]["left"] = "Something else."
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"pairs\.jsonl line 2: left of 'p2' differs"):
        FileAnnotators(path).judge(PAIRS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "p9"}, r"line 2: unknown id 'p9'; expected the id of one of the 3 pairs"),
        ({"id": "p3"}, r"line 2: id 'p3' is judged again, first in line 1"),
        ({"grade": "better-ish"}, r"line 2: grade 'better-ish'; expected one of significantly, better"),
        ({"grade": None}, r"line 2: grade None; expected one of"),
        ({"choice": "both"}, r"line 2: choice 'both'; expected left or right"),
        ({"left_safe": "yes"}, r"line 2: left_safe 'yes'; expected true, false or nothing"),
        ({"left_safe": 1}, r"line 2: left_safe 1; expected true, false or nothing"),
        ({"grad": "better"}, r"line 2: unknown keys \['grad'\]"),
        ({"id": 7}, r"line 2: .*has no text id"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(judged, change, message):
    with pytest.raises(DataError, match=message) as error:
        judged([ROWS[0], ROWS[1] | change, ROWS[2]]).judge(PAIRS)
    assert "judged.jsonl" in str(error.value)


def test_a_missing_judgement_is_named(judged):
    with pytest.raises(DataError, match=r"no judgement for p1, p2; expected one for all 3 pairs"):
        judged(ROWS[:1]).judge(PAIRS)


def test_a_line_that_is_no_json_is_named(judged, tmp_path):
    annotators = judged(ROWS)
    annotators.path.write_text("{oops\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1: not JSON"):
        annotators.judge(PAIRS)


def test_a_line_separator_inside_a_text_does_not_break_the_row(judged):
    assert judged([ROWS[0] | {"annotator": "ada\u2028b"}, *ROWS[1:]]).judge(PAIRS)[2].annotator == "ada\u2028b"


def test_better_is_off_the_scale_of_three(judged):
    annotators = judged(ROWS)
    with pytest.raises(DataError, match=r"line 2: grade 'better'; expected one of significantly, slightly, negligibly"):
        FileAnnotators(annotators.path, scale="three").judge(PAIRS)

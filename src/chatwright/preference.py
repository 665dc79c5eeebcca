"""One human judgement: two answers to one prompt, which one was chosen, how clearly, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from chatwright.dialogue import PROMPT_TAGS, Message, check_turns, messages_from_json, messages_to_json
from chatwright.errors import DataError

Side = Literal["left", "right"]
Task = Literal["helpfulness", "safety"]


class Grade(str, Enum):
    """How much better the chosen answer is, strongest first (Llama 2, section 3.2.1)."""

    SIGNIFICANTLY = "significantly"
    BETTER = "better"
    SLIGHTLY = "slightly"
    NEGLIGIBLY = "negligibly"  # "negligibly better or unsure"


GRADE_SCALES: dict[str, tuple[Grade, ...]] = {
    "four": (Grade.SIGNIFICANTLY, Grade.BETTER, Grade.SLIGHTLY, Grade.NEGLIGIBLY),
    "three": (Grade.SIGNIFICANTLY, Grade.SLIGHTLY, Grade.NEGLIGIBLY),
}
"""The paper's four grades, and the three of the announcement without "better"."""


def parse_grade(text: Any, where: str) -> Grade:
    """The grade of that name. Raises DataError that names `where`."""
    try:
        return Grade(text)
    except ValueError:
        raise DataError(f"{where}: grade {text!r}; expected one of {', '.join(g.value for g in Grade)}") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the two answers shown. `variant` names the model that wrote it; `safe` is the annotator's label, None where not asked.

    `finished` is False where the length limit cut the answer off: such a text never gets an end-of-turn token, anywhere.
    """

    text: str
    variant: str = ""
    temperature: float | None = None
    seed: int | None = None
    safe: bool | None = None
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """A judgement. Nothing derived is stored: `chosen`, `rejected` and the safety bin follow from what the annotator saw and did."""

    id: str
    task: Task
    prompt: tuple[Message, ...]
    left: Answer
    right: Answer
    choice: Side
    grade: Grade | None = None
    tag: str = "helpful"
    annotator: str = ""
    simulated: bool = False
    guideline: str = ""
    batch: str = ""
    judged_at: str | None = None

    def __post_init__(self) -> None:
        check_turns(self.prompt, self.id or "comparison")
        if self.prompt[-1].role != "user":
            raise DataError(f"{self.id}: the last turn of the prompt is {self.prompt[-1].role}; expected user")
        if self.choice not in ("left", "right"):
            raise DataError(f"{self.id}: choice {self.choice!r}; expected left or right")
        if self.task not in ("helpfulness", "safety"):
            raise DataError(f"{self.id}: task {self.task!r}; expected helpfulness or safety")
        if self.tag not in PROMPT_TAGS:
            raise DataError(f"{self.id}: tag {self.tag!r}; expected one of {', '.join(PROMPT_TAGS)}")
        for answer in (self.left, self.right):
            if not answer.text.strip():
                raise DataError(f"{self.id}: an answer is empty; expected two answers to compare")

    @property
    def chosen(self) -> Answer:
        return self.left if self.choice == "left" else self.right

    @property
    def rejected(self) -> Answer:
        return self.right if self.choice == "left" else self.left

    @property
    def safety_bin(self) -> Literal["chosen safe", "both safe", "both unsafe", "chosen unsafe"] | None:
        """The paper's bin of a safety pair, None where labels are missing. "chosen unsafe" pairs stay out of training (section 3.2.1)."""
        match self.chosen.safe, self.rejected.safe:
            case True, True:
                return "both safe"
            case True, False:
                return "chosen safe"
            case False, False:
                return "both unsafe"
            case False, True:
                return "chosen unsafe"
        return None


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """A JSON object in the house format, the inverse of `comparison_from_json`."""

    def answer(a: Answer) -> dict[str, Any]:
        return {"text": a.text, "variant": a.variant, "temperature": a.temperature, "seed": a.seed, "safe": a.safe, "finished": a.finished}

    c = comparison
    return {
        "id": c.id, "task": c.task, "prompt": messages_to_json(c.prompt), "left": answer(c.left), "right": answer(c.right),
        "choice": c.choice, "grade": c.grade.value if c.grade else None, "tag": c.tag, "annotator": c.annotator,
        "simulated": c.simulated, "guideline": c.guideline, "batch": c.batch, "judged_at": c.judged_at,
    }  # fmt: skip


def comparison_from_json(row: Mapping[str, Any], where: str) -> Comparison:
    """The comparison of a row in the house format. Raises DataError that names `where` for anything missing, unknown or off the scale."""
    known = Comparison.__dataclass_fields__
    missing = [key for key in ("id", "task", "prompt", "left", "right", "choice") if key not in row]
    unknown = [key for key in row if key not in known]
    if missing or unknown:
        raise DataError(f"{where}: missing keys {missing}, unknown keys {unknown}; expected keys {', '.join(known)}")
    fields = dict(row)
    fields["prompt"] = messages_from_json(row["prompt"], where)
    for side in ("left", "right"):
        answer = row[side]
        if (
            not isinstance(answer, Mapping)
            or not isinstance(answer.get("text"), str)
            or not set(answer) <= set(Answer.__dataclass_fields__)
        ):
            raise DataError(
                f"{where}: {side} is {answer!r:.60}; expected an object with text and optional variant, temperature, seed, safe, finished"
            )
        if not isinstance(answer.get("finished", True), bool):
            raise DataError(f"{where}: {side} has finished {answer['finished']!r:.60}; expected true or false")
        if not isinstance(answer.get("safe"), bool | None):
            raise DataError(f"{where}: {side} has safe {answer['safe']!r:.60}; expected true, false or null")
        fields[side] = Answer(**answer)
    if row.get("grade") is not None:
        fields["grade"] = parse_grade(row["grade"], where)
    try:
        return Comparison(**fields)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None

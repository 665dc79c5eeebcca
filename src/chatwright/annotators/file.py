"""Judgements made elsewhere: the pairs go out as one file, blind, and come back as another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatwright.annotators.base import Candidate, Pair
from chatwright.errors import DataError, SettingsError, WaitingForPeople
from chatwright.preference import GRADE_SCALES, Answer, Comparison, parse_grade

JUDGEMENT_KEYS = ("id", "choice", "grade", "left_safe", "right_safe", "annotator", "guideline", "judged_at")
PAIR_KEYS = ("id", "task", "prompt", "left", "right")


def pair_to_json(pair: Pair) -> dict[str, Any]:
    """What an annotator may see of a pair: no variant, temperature or seed in it, so nothing tells which model wrote what."""
    prompt = [{"role": message.role, "content": message.content} for message in pair.prompt.messages]
    return {"id": pair.id, "task": pair.task, "prompt": prompt, "left": pair.left.text, "right": pair.right.text}


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write the pairs to be judged as JSON lines with the keys id, task, prompt, left, right: blind."""
    from chatwright.sources import write_jsonl

    write_jsonl(path, [pair_to_json(pair) for pair in pairs])


class FileAnnotators:
    """The judgements in `path`, matched to pairs by id. Fits the `Annotators` protocol.

    A row is `{"id", "choice": "left"|"right", "grade"}` and may carry left_safe, right_safe (true or false), annotator, guideline and
    judged_at. The pairs' own keys may stay in it (people may fill in the pairs file itself); they are then checked against the pair.
    While there is no such file, `judge` writes the pairs to `pairs_path` (by default beside it) and raises WaitingForPeople.
    """

    def __init__(self, path: Path, *, pairs_path: Path | None = None, scale: str = "four") -> None:
        if scale not in GRADE_SCALES:
            raise SettingsError(f"grade scale {scale!r}; expected one of {', '.join(GRADE_SCALES)}")
        self.path = Path(path)
        self.pairs_path = pairs_path or self.path.with_name(f"{self.path.stem}-pairs.jsonl")
        self.scale = scale

    def judge(self, pairs: Sequence[Pair]) -> list[Comparison]:
        """One judgement a pair, in the order of the pairs. Raises DataError unless the file judges exactly these pairs, each once."""
        if not self.path.exists():
            write_pairs(self.pairs_path, pairs)
            grades = " or ".join(f'"{grade.value}"' for grade in GRADE_SCALES[self.scale])
            raise WaitingForPeople(
                f"{len(pairs)} pairs wait to be judged in {self.pairs_path}; expected one judgement a pair in {self.path}, rows like "
                f'{{"id": "…", "choice": "left" or "right", "grade": {grades}}} '
                '(safety pairs also "left_safe" and "right_safe": true or false); then run the same command again'
            )
        by_id = {pair.id: pair for pair in pairs}
        if len(by_id) != len(pairs):
            raise DataError(f"{len(pairs) - len(by_id)} pairs share an id with another; expected ids that tell pairs apart")
        judged: dict[str, Comparison] = {}
        lines: dict[str, int] = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8").split("\n"), start=1):
            if not line.strip():
                continue
            where = f"{self.path} line {number}"
            row = _object(line, where)
            pair = by_id.get(row["id"])
            if pair is None:
                raise DataError(f"{where}: unknown id {row['id']!r}; expected the id of one of the {len(pairs)} pairs in this batch")
            if pair.id in judged:
                raise DataError(f"{where}: id {pair.id!r} is judged again, first in line {lines[pair.id]}; expected one judgement a pair")
            judged[pair.id], lines[pair.id] = self._row(row, pair, where), number
        missing = [pair.id for pair in pairs if pair.id not in judged]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataError(f"{self.path}: no judgement for {', '.join(missing[:5])}{more}; expected one for all {len(pairs)} pairs")
        return [judged[pair.id] for pair in pairs]

    def _row(self, row: Mapping[str, Any], pair: Pair, where: str) -> Comparison:
        unknown = [key for key in row if key not in JUDGEMENT_KEYS + PAIR_KEYS]
        if unknown:
            raise DataError(f"{where}: unknown keys {unknown}; expected keys {', '.join(JUDGEMENT_KEYS)}")
        shown = pair_to_json(pair)
        for key in PAIR_KEYS:
            if key in row and row[key] != shown[key]:
                raise DataError(f"{where}: {key} of {pair.id!r} differs from the pair that was sent; expected it unchanged or left out")
        if row.get("choice") not in ("left", "right"):
            raise DataError(f"{where}: choice {row.get('choice')!r}; expected left or right")
        grade = parse_grade(row.get("grade"), where)
        if grade not in GRADE_SCALES[self.scale]:
            raise DataError(f"{where}: grade {grade.value!r}; expected one of {', '.join(g.value for g in GRADE_SCALES[self.scale])}")
        for key in ("left_safe", "right_safe"):
            if not isinstance(row.get(key), bool | None):
                raise DataError(f"{where}: {key} {row[key]!r}; expected true, false or nothing")
        return Comparison(
            id=pair.id,
            task=pair.task,
            prompt=pair.prompt.messages,
            left=_answer(pair.left, row.get("left_safe")),
            right=_answer(pair.right, row.get("right_safe")),
            choice=row["choice"],
            grade=grade,
            tag=pair.prompt.tag,
            annotator=str(row.get("annotator") or ""),
            guideline=str(row.get("guideline") or ""),
            judged_at=row.get("judged_at"),
        )


def _answer(candidate: Candidate, safe: bool | None) -> Answer:
    return Answer(candidate.text, candidate.variant, candidate.temperature, candidate.seed, safe, candidate.finished)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}); expected one object a line") from None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise DataError(f"{where}: {line!r:.60} has no text id; expected an object with the id of a pair")
    return row

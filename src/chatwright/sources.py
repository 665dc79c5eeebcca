"""Files and hub data sets in the ecosystem's formats -> dialogues, comparisons and prompts.

A row's format follows from its columns alone. A row that fits none, or is malformed, raises a DataError that names file and line: nothing
is dropped in silence. With `skip_malformed=True` such rows are left out, counted and named in a warning. `docs` of each format are in
`DIALOGUE_FORMATS`, `COMPARISON_FORMATS` and `PROMPT_FORMATS`; the error message lists them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from chatwright.dialogue import Dialogue, Message, Prompt, messages_from_json, messages_to_json
from chatwright.errors import DataError
from chatwright.preference import Answer, Comparison, Grade, Task, comparison_from_json, parse_grade
from chatwright.rows import Row, read_rows, write_jsonl

__all__ = [
    "COMPARISON_FORMATS", "DIALOGUE_FORMATS", "PROMPT_FORMATS", "dialogue_to_json", "prompt_to_json", "read_comparisons", "read_dialogues",
    "read_prompts", "write_jsonl",
]  # fmt: skip

log = logging.getLogger(__name__)
Item = TypeVar("Item", Dialogue, Comparison, Prompt)

DIALOGUE_FORMATS: dict[str, str] = {
    "messages": "messages (a list of role and content)",
    "prompt and completion": "prompt, completion (texts, or lists of messages)",
    "oasst tree": "prompt with nested replies",
    "oasst messages": "message_id, parent_id, role, text",
}
COMPARISON_FORMATS: dict[str, str] = {
    "house": "id, task, prompt, left, right, choice",
    "trl": "prompt, chosen, rejected (texts, or lists of messages; without prompt each list is the whole conversation)",
    "hh-rlhf": 'chosen, rejected (texts of "\\n\\nHuman: … \\n\\nAssistant: …")',
    "pku-saferlhf": "prompt, response_0, response_1, better_response_id or safer_response_id",
}
PROMPT_FORMATS: dict[str, str] = {"messages": "messages (ends with a user turn)", "prompt": "prompt (a text, or a list of messages)"}

_OASST_ROLES = {"prompter": "user", "assistant": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_TURN_ROLES = {"Human": "user", "Assistant": "assistant"}


def read_dialogues(source: str | Path, *, split: str = "train", limit: int | None = None, skip_malformed: bool = False) -> list[Dialogue]:
    """Dialogues of a file, a folder or a hub data set ("org/name", "org/name:config"), at most `limit`, in the source's order.

    Of an oasst tree one dialogue is taken, along its best-ranked path: of several assistant replies the one of lowest rank (0 is best, no
    rank is last), of equals the first that is answered; deleted replies do not count, and a last user turn without an answer is cut off.
    """
    rows = read_rows(source, kind="dialogues", split=split)
    first = next(rows)
    rows = chain([first], rows)
    if {"message_id", "role", "text"} <= first.columns:
        rows = _trees(rows)
    return _collect(rows, _dialogue, limit, skip_malformed)


def read_comparisons(
    source: str | Path,
    *,
    task: Task = "helpfulness",
    split: str = "train",
    limit: int | None = None,
    margins: Mapping[str, float] | None = None,
    skip_malformed: bool = False,
) -> list[Comparison]:
    """Comparisons of a file, a folder or a hub data set, at most `limit`, in the source's order.

    Rows in the house format carry their own task; `task` says which judgement rows in other formats are. A grade is taken from the column
    `grade`, else from `margin` through `margins` (which margin stands for which grade), else it is None. Where the source says only chosen
    and rejected, chosen is on the left. Of PKU-SafeRLHF the task says which judgement is read:
    better_response_id for helpfulness, safer_response_id for safety. The tag is the column `tag`, else "adversarial" for safety and
    "helpful" for helpfulness. Differs from the sources: UltraFeedback's scores become no grade, since they are no annotator's.
    """
    return _collect(read_rows(source, kind="comparisons", split=split), lambda row: _comparison(row, task, margins), limit, skip_malformed)


def read_prompts(source: str | Path, *, split: str = "train", limit: int | None = None, skip_malformed: bool = False) -> list[Prompt]:
    """Prompts of a file, a folder or a hub data set, at most `limit`, in the source's order. `tag` is "helpful" unless given."""
    return _collect(read_rows(source, kind="prompts", split=split), _prompt, limit, skip_malformed)


def dialogue_to_json(dialogue: Dialogue) -> dict[str, Any]:
    """A row that `read_dialogues` reads back as the same dialogue."""
    return {"id": dialogue.id, "source": dialogue.source, "messages": messages_to_json(dialogue.messages)}


def prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    """A row that `read_prompts` reads back as the same prompt."""
    return {"id": prompt.id, "tag": prompt.tag, "category": prompt.category, "messages": messages_to_json(prompt.messages)}


def _collect(rows: Iterable[Row], parse: Callable[[Row], Item], limit: int | None, skip_malformed: bool) -> list[Item]:
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; expected at least 1, or none for all rows")
    items: list[Item] = []
    first_use: dict[str, str] = {}
    problems: list[str] = []
    for row in rows:
        if len(items) == limit:
            break
        try:
            item = parse(row)
            if item.id in first_use:
                raise DataError(f"found id {item.id!r} again, first at {first_use[item.id]}; expected unique ids; rename or remove one")
        except DataError as error:
            text = str(error) if str(error).startswith(row.where) else f"{row.where}: {error}"
            if not skip_malformed:
                raise DataError(text) from None
            problems.append(text)
            continue
        first_use[item.id] = row.where
        items.append(item)
    if problems:
        log.warning("%d of %d rows were malformed and left out; the first: %s", len(problems), len(problems) + len(items), problems[0])
    if not items:
        raise DataError(f"every row was malformed; the first: {problems[0]}")
    return items


def _no_format(row: Row, formats: Mapping[str, str]) -> DataError:
    found = ", ".join(sorted(row.columns)) or "none"
    listed = "; ".join(f"{name}: {columns}" for name, columns in formats.items())
    return DataError(f"{row.where}: found columns {found}; expected those of one format ({listed}); rename the columns")


def _id(row: Row) -> str:
    given = row.get("id")
    if given is None or given == "":
        return row.id
    if not isinstance(given, str | int):
        raise DataError(f"{row.where}: found id {given!r:.60}; expected a text or a number; mend it or leave the column out")
    return str(given)


def _text(row: Row, column: str, default: str | None = None) -> str:
    value = row.get(column)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise DataError(f"{row.where}: found {column} {value!r:.60}; expected a text that is not empty; mend or remove the row")
    return value


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _ending_with(role: str, messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    if messages[-1].role != role:
        raise DataError(f"{where}: found {messages[-1].role} as the last turn; expected {role}; cut or complete the row")
    return messages


def _dialogue(row: Row) -> Dialogue:
    prompt = row.get("prompt")
    if "messages" in row.columns:
        messages = messages_from_json(row.get("messages"), row.where)
    elif isinstance(prompt, Mapping) and "replies" in prompt:
        messages = messages_from_json(_best_path(prompt, row.where), row.where)
    elif {"prompt", "completion"} <= row.columns:
        messages = _conversation(row, "completion")
    else:
        raise _no_format(row, DIALOGUE_FORMATS)
    own = row.get("message_tree_id") if "id" not in row.columns else None
    return Dialogue(_ending_with("assistant", messages, row.where), own or _id(row), _text(row, "source", row.source))


def _conversation(row: Row, column: str) -> tuple[Message, ...]:
    """The whole conversation that ends with the answer in `column`, whether that holds the answer alone or the conversation too."""
    prompt, value = row.get("prompt"), row.get(column)
    if not isinstance(prompt, str | list | None) or not isinstance(value, str | list) or not value:
        raise DataError(
            f"{row.where}: found {column} {value!r:.40} and prompt {prompt!r:.40}; expected texts or lists of messages; mend the row"
        )
    before: list[Any]
    if prompt is None and isinstance(value, str) and not _TURN.match(value):
        raise DataError(
            f"{row.where}: found {column} {value!r:.40} without a prompt; expected a prompt, or a text that begins '\\n\\nHuman:'"
        )
    if isinstance(value, str) and _TURN.match(value):  # a transcript in full, hh-rlhf
        before, answer = _transcript(value), []
    elif isinstance(value, str):
        before, answer = _prompt_turns(prompt), [_message("assistant", value)]
    elif isinstance(prompt, str) and isinstance(value[0], Mapping) and value[0].get("role") in ("user", "system"):
        before, answer = [], value  # UltraFeedback: the prompt's text is repeated as the first turn
    else:
        before, answer = _prompt_turns(prompt), value
    return _ending_with("assistant", messages_from_json(before + answer, row.where), row.where)


def _prompt_turns(prompt: str | list[Any] | None) -> list[Any]:
    if isinstance(prompt, str):
        turns = _transcript(prompt) if _TURN.match(prompt) else [_message("user", prompt)]
        return turns[:-1] if turns[-1] == _message("assistant", "") else turns  # a transcript may stop after "Assistant:"
    return prompt or []


def _transcript(text: str) -> list[dict[str, Any]]:
    """Turns of "\\n\\nHuman: … \\n\\nAssistant: …"."""
    _, *pieces = _TURN.split(text)
    return [_message(_TURN_ROLES[who], said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


def _comparison(row: Row, task: Task, margins: Mapping[str, float] | None) -> Comparison:
    if {"left", "right", "choice"} <= row.columns:
        return comparison_from_json(row.values, row.where)
    if {"response_0", "response_1"} <= row.columns:
        return _pku(row, task)
    if not {"chosen", "rejected"} <= row.columns:
        raise _no_format(row, COMPARISON_FORMATS)
    sides = {side: _conversation(row, side) for side in ("chosen", "rejected")}
    prompt = sides["chosen"][:-1]
    if sides["rejected"][:-1] != prompt:
        raise DataError(f"{row.where}: found chosen and rejected after different prompts; expected the same turns up to the last answer")
    scores = row.get("score_chosen"), row.get("score_rejected")
    if all(isinstance(score, int | float) for score in scores) and scores[0] < scores[1]:
        raise DataError(f"{row.where}: found score_chosen {scores[0]} below score_rejected {scores[1]}; expected it above; mend the row")
    left, right = (Answer(sides[side][-1].content, safe=_safe(row, f"{side}_safe")) for side in ("chosen", "rejected"))
    return _judged(row, task, prompt, left, right, "left", _grade(row, margins))


def _judged(row: Row, task: Task, prompt: tuple[Message, ...], left: Answer, right: Answer, choice: Any, grade: Grade | None) -> Comparison:
    tag = _text(row, "tag", "adversarial" if task == "safety" else "helpful")
    return Comparison(_id(row), task, _ending_with("user", prompt, row.where), left, right, choice, grade, tag, _text(row, "annotator", ""))


def _pku(row: Row, task: Task) -> Comparison:
    column = "better_response_id" if task == "helpfulness" else "safer_response_id"
    chosen = row.get(column)
    if isinstance(chosen, bool) or chosen not in (0, 1):
        raise DataError(f"{row.where}: found {column} {chosen!r:.60}; expected 0 or 1 for task {task!r}; mend or remove the row")
    prompt = messages_from_json([_message("user", _text(row, "prompt"))], row.where)
    answers = [
        Answer(_text(row, f"response_{i}"), _text(row, f"response_{i}_source", ""), safe=_safe(row, f"is_response_{i}_safe"))
        for i in (0, 1)
    ]
    if task == "safety" and any(answer.safe is None for answer in answers):
        raise DataError(f"{row.where}: found no is_response_0_safe or is_response_1_safe; expected both for task 'safety'; add them")
    return _judged(row, task, prompt, answers[0], answers[1], "right" if chosen else "left", None)


def _safe(row: Row, column: str) -> bool | None:
    value = row.get(column)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{row.where}: found {column} {value!r:.60}; expected true or false; mend the row or leave the column out")
    return value


def _grade(row: Row, margins: Mapping[str, float] | None) -> Grade | None:
    margin = row.get("margin")
    if "grade" in row.columns:
        return parse_grade(row.get("grade"), row.where)
    if margin is None:
        return None
    if margins is None:
        raise DataError(
            f"{row.where}: found margin {margin!r:.60} but no grade; expected grade, which margins follow from; add it or drop margin"
        )
    fits = [
        grade for grade, m in margins.items() if isinstance(margin, int | float) and math.isclose(margin, m, rel_tol=1e-4, abs_tol=1e-6)
    ]
    if len(fits) != 1:
        known = ", ".join(f"{Grade(grade).value} {value:g}" for grade, value in margins.items())
        raise DataError(f"{row.where}: found margin {margin!r:.60}; expected that of one grade ({known}); add grade, or drop margin")
    return parse_grade(fits[0], row.where)


def _prompt(row: Row) -> Prompt:
    if "prompt" in row.columns:
        value = row.get("prompt")
        turns = _prompt_turns(_text(row, "prompt")) if not isinstance(value, list) else value
    elif "messages" in row.columns:
        turns = row.get("messages")
    else:
        raise _no_format(row, PROMPT_FORMATS)
    messages = _ending_with("user", messages_from_json(turns, row.where), row.where)
    return Prompt(messages, _id(row), _text(row, "tag", "helpful"), _text(row, "category", ""))  # type: ignore[arg-type]  # Prompt checks it


def _trees(rows: Iterable[Row]) -> Iterator[Row]:
    """Tree rows out of oasst's flat message rows."""
    nodes: dict[str, dict[str, Any]] = {}
    wheres: dict[str, Row] = {}
    for row in rows:
        name = _text(row, "message_id")
        _text(row, "text")
        if name in nodes:
            raise DataError(f"{row.where}: found message_id {name!r} again, first at {wheres[name].where}; expected unique ids; remove one")
        nodes[name], wheres[name] = {**row.values, "replies": []}, row
    roots = []
    for name, node in nodes.items():
        parent = node.get("parent_id")
        if parent is None:
            roots.append(name)
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
        else:
            raise DataError(
                f"{wheres[name].where}: found parent_id {parent!r:.60} of no message here; expected whole trees; add the message"
            )
    for name in roots:
        row = wheres[name]
        yield Row({"message_tree_id": nodes[name].get("message_tree_id") or name, "prompt": nodes[name]}, row.where, row.id, row.source)


def _best_path(root: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Messages along the best-ranked replies of an oasst tree, to the last answer."""
    turns: list[dict[str, Any]] = []
    node: Mapping[str, Any] | None = root
    while node is not None:
        if node.get("role") not in _OASST_ROLES:
            raise DataError(
                f"{where}: found role {node.get('role')!r} in the tree; expected one of {', '.join(_OASST_ROLES)}; mend the tree"
            )
        turns.append({"role": _OASST_ROLES[node["role"]], "content": node.get("text")})
        replies = [reply for reply in node.get("replies") or [] if not reply.get("deleted")]
        node = min(replies, key=_preference_order, default=None)
    if turns[-1]["role"] == "user":
        turns.pop()
    if not turns:
        raise DataError(f"{where}: found a tree without an answer; expected at least one assistant reply; remove the tree")
    return turns


def _preference_order(reply: Mapping[str, Any]) -> tuple[float, bool]:
    rank = reply.get("rank")
    return (math.inf if rank is None else float(rank), not reply.get("replies"))

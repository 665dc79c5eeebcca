"""Comparisons -> the preference rows that TRL and its relatives train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatwright.dialogue import messages_to_json
from chatwright.errors import DataError
from chatwright.preference import Comparison
from chatwright.rows import atomic_path, write_jsonl


def to_trl(comparisons: Sequence[Comparison], margins: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """Conversational preference rows with an explicit prompt, one a comparison, in order.

    `prompt`, `chosen` and `rejected` are lists of messages; `grade`, `tag`, `chosen_safe` and `rejected_safe` are the annotator's, or None.
    With `margins` (a margin for each grade, `maths.preference.MARGINS`) each row has a `margin`, which `trl.RewardTrainer`
    subtracts inside its loss: -log sigmoid(chosen - rejected - margin), equation 2 of Llama 2. `read_comparisons` reads the rows back.

    Raises DataError if margins are asked for and a comparison has no grade, or one that `margins` does not list.
    """
    return [_row(comparison, margins) for comparison in comparisons]


def _row(comparison: Comparison, margins: Mapping[str, float] | None) -> dict[str, Any]:
    c = comparison
    row: dict[str, Any] = {
        "id": c.id,
        "prompt": messages_to_json(c.prompt),
        "chosen": [{"role": "assistant", "content": c.chosen.text}],
        "rejected": [{"role": "assistant", "content": c.rejected.text}],
        "grade": c.grade.value if c.grade else None,
        "tag": c.tag,
        "chosen_safe": c.chosen.safe,
        "rejected_safe": c.rejected.safe,
    }
    if margins is not None:
        if c.grade is None or c.grade not in margins:
            found = f"grade {c.grade.value!r}" if c.grade else "no grade"
            raise DataError(f"{c.id}: found {found}; expected one of {', '.join(map(str, margins))}; add it, or export without margins")
        row["margin"] = float(margins[c.grade])
    return row


def write_trl(path: str | Path, comparisons: Sequence[Comparison], margins: Mapping[str, float] | None) -> int:
    """Write `to_trl` rows as JSON Lines or Parquet, by the suffix, all or nothing, and return how many.

    Raises DataError for another suffix or for no comparisons, StorageError if the disk refuses.
    """
    path = Path(path)
    rows = to_trl(comparisons, margins)
    if not rows:
        raise DataError(f"{path}: no comparisons to export; expected at least one")
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    if path.suffix != ".parquet":
        raise DataError(f"{path}: suffix {path.suffix!r}; expected .jsonl or .parquet")
    import pyarrow
    from pyarrow.parquet import write_table

    message = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    kinds = {"prompt": message, "chosen": message, "rejected": message, "chosen_safe": pyarrow.bool_(), "rejected_safe": pyarrow.bool_()}
    kinds["margin"] = pyarrow.float64()
    schema = pyarrow.schema([(column, kinds.get(column, pyarrow.string())) for column in rows[0]])
    with atomic_path(path) as temporary:
        write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary)
    return len(rows)

"""Rows in and out: JSON objects from files, folders and hub data sets, each knowing where it came from; atomic writing."""

from __future__ import annotations

import gzip
import json
import os
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatwright.errors import DataError, StorageError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
_HUB_NAME = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `where` ("file.jsonl line 12") begins its error messages, `id` ("file:12") is its name if it has none of its own."""

    values: dict[str, Any]
    where: str
    id: str
    source: str

    def get(self, column: str) -> Any:
        """The value of a column, None where it is absent: a Parquet file gives every row every column, empty or not."""
        return self.values.get(column)

    @property
    def columns(self) -> set[str]:
        """The columns that hold something."""
        return {column for column, value in self.values.items() if value is not None}


def read_rows(source: str | Path, *, kind: str, split: str = "train") -> Iterator[Row]:
    """The rows of a source, lazily and in order.

    A source is a `.jsonl`, `.jsonl.gz`, `.json` or `.parquet` file; a folder, of which the file named `kind` ("dialogues.jsonl") is read or
    else the files of the split ("train-00000-of-00002.parquet", there or in `data/`); or the name of a hub data set, "org/name" or
    "org/name:config". Raises DataError for a source that is not there, cannot be read or holds no row.
    """
    path = Path(source)
    if path.is_dir():
        files = _files_of_folder(path, kind, split)
    elif path.exists():
        if split != "train":
            raise DataError(f"{path}: split {split!r} of a single file; a file has no splits (leave split out, or name a folder)")
        files = [path]
    else:
        yield from _hub_rows(source, split)
        return
    empty = True
    for file in files:
        for row in _file_rows(file):
            empty = False
            yield row
    if empty:
        raise DataError(f"{', '.join(f.name for f in files)}: found no rows; expected at least one")


def _files_of_folder(folder: Path, kind: str, split: str) -> list[Path]:
    for named in (folder / f"{kind}{suffix}" for suffix in SUFFIXES):
        if named.is_file() and split == "train":
            return [named]
    for place in (folder, folder / "data"):
        shards = [file for file in sorted(place.glob(f"{split}[-.]*")) if file.name.endswith(SUFFIXES)]
        if shards:
            return shards
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{folder}: found {found}; expected {kind}.jsonl or files named {split}*.jsonl or {split}*.parquet; name the file itself"
    )


def _stem(file: Path) -> str:
    return next((file.name.removesuffix(suffix) for suffix in SUFFIXES if file.name.endswith(suffix)), file.stem)


def _file_rows(file: Path) -> Iterator[Row]:
    if not file.name.endswith(SUFFIXES):
        raise DataError(f"{file.name}: found a file of another kind; expected one of {', '.join(SUFFIXES)}")
    unit, rows = ("row", _parquet(file)) if file.suffix == ".parquet" else ("line", _json(file))
    try:
        for number, values in rows:
            if not isinstance(values, dict):
                raise DataError(f"{file.name} {unit} {number}: found {type(values).__name__}; expected a JSON object for each row")
            yield Row(values, f"{file.name} {unit} {number}", f"{_stem(file)}:{number}", _stem(file))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); check the file and its permissions") from error


def _parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{file.name}: cannot be read as Parquet ({error}); expected a whole Parquet file; fetch or write it again"
        ) from error


def _json(file: Path) -> Iterator[tuple[int, Any]]:
    """JSON Lines; or, in a `.json` file, one list of objects, whose entries are then counted in place of lines."""
    if file.suffix == ".json":
        text = _decode(file.read_bytes(), file.name)
        if text.lstrip().startswith("["):
            yield from enumerate(_parse(text, file.name), start=1)
            return
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file.name} line {number}"
            if text := _decode(line, where).strip():
                yield number, _parse(text, where)


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: found bytes that are not UTF-8 ({error.reason}); expected UTF-8 text; convert the file") from None


def _parse(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: found malformed JSON ({error}); expected one whole JSON value; mend or remove it") from None
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{where}: found half of a character (a lone \\ud… escape); expected whole Unicode text; mend the row"
            ) from None
    return value


def _hub_rows(source: str | Path, split: str) -> Iterator[Row]:
    name = _HUB_NAME.fullmatch(str(source))
    if isinstance(source, Path) or not name or str(source).endswith(SUFFIXES):
        raise DataError(
            f"{source}: no such file or folder; expected a path to {', '.join(SUFFIXES)}, or a hub data set as org/name[:config]"
        )
    import datasets

    try:
        rows = datasets.load_dataset(name["path"], name["config"], split=split)
    except Exception as error:  # the library raises a dozen kinds, some from the libraries under it; each means "not available"
        raise DataError(
            f"{source}: no such file, and as a hub data set (split {split!r}) not available ({type(error).__name__}: {str(error)[:200]}); "
            "check the path or name, go online, or download the data set and name its folder"
        ) from error
    if len(rows) == 0:
        raise DataError(f"{source}: found no rows in split {split!r}; expected at least one")
    for number, values in enumerate(rows, start=1):
        yield Row(dict(values), f"{source} row {number}", f"{source}:{number}", str(source))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; on success it is flushed to the disk and takes the place of `path`.

    If the block fails nothing is left behind and an older `path` stays as it was. An OSError becomes a StorageError.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"{path}: could not be written ({reason}); expected room and permission; nothing half-written is left"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON Lines, all or nothing, and return how many. Raises StorageError if the disk refuses."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count

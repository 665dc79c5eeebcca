"""What a stage measures while it works: one JSON object a line in metrics.jsonl, and the same numbers to trackers where asked.

A row is {"step", "phase", "seconds", ...values}. `seconds` counts the work on the stage, attempts before a kill included. Trackers
write beside metrics.jsonl and upload nothing unless the user's environment says so (WANDB_MODE=online, MLFLOW_TRACKING_URI).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from chatwright.errors import DataError, SettingsError
from chatwright.rows import write_jsonl

logger = logging.getLogger(__name__)


class MetricsLog:
    """The metrics.jsonl of one stage, written by one rank. Close it, or use it as a context manager.

    Opening an existing file goes on at its end; a line that a kill left half-written is dropped. `settings` and `run_name` go to the
    trackers only. Raises SettingsError for a tracker that is unknown or not installed.
    """

    def __init__(self, path: Path, trackers: Sequence[str] = (), run_name: str = "", settings: Mapping[str, Any] | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._trackers = [_open_tracker(name, path.parent, run_name or path.parent.name, settings or {}) for name in trackers]
        self._drop_torn_line()
        self._start_from(read_metrics(path) if path.exists() else [])

    def log(self, step: int, phase: str = "train", /, **values: Any) -> None:
        """Append one row and flush it. A number that is not finite is written as null, with a warning."""
        assert not {"step", "phase", "seconds"} & set(values), "step, phase and seconds are the log's own columns"
        row: dict[str, Any] = {"step": step, "phase": phase, "seconds": round(time.monotonic() - self._began, 3)}
        not_finite: list[str] = []
        for name, value in values.items():
            row[name] = _plain(value, name, not_finite)
        if not_finite:
            logger.warning("%s step %d (%s): %s not finite; written as null", self.path.name, step, phase, ", ".join(not_finite))
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        numbers = {name: float(row[name]) for name in values if isinstance(row[name], int | float)}
        for tracker in self._trackers:
            tracker.log(step, {f"{phase}/{name}": number for name, number in numbers.items()})

    def truncate_after(self, step: int) -> None:
        """Drop all rows beyond a step, atomically: what a resumed stage calls with the step of the checkpoint that it goes on from."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        self._file.close()
        write_jsonl(self.path, rows)
        self._start_from(rows)
        for tracker in self._trackers:
            tracker.rewind(step)

    def close(self) -> None:
        """Close the file and the trackers. Twice does no harm."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start_from(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append from here on, the clock going on where the last row stopped."""
        self._file = self.path.open("a", encoding="utf-8", newline="\n")
        self._began = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)

    def _drop_torn_line(self) -> None:
        if self.path.exists():
            content = self.path.read_bytes()
            if content and not content.endswith(b"\n"):
                with self.path.open("rb+") as file:
                    file.truncate(content.rfind(b"\n") + 1)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without a last line that is still being written. Raises DataError for any other line that is no row."""
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]
    rows = []
    for number, line in enumerate(whole, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict) or not {"step", "phase", "seconds"} <= set(row):
            raise DataError(f"{path} line {number}: {line[:40]!r}; expected an object with step, phase and seconds; remove the line")
        rows.append(row)
    return rows


def _plain(value: Any, name: str, not_finite: list[str]) -> Any:
    """A value as JSON holds it: scalars of torch and numpy as numbers, None for what is not finite (its name noted)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, f"{name}.{key}", not_finite) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{name}.{index}", not_finite) for index, inner in enumerate(value)]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        not_finite.append(name)
        return None
    return value


class _Tracker(Protocol):
    """Where the numbers go besides the file."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def rewind(self, step: int) -> None:
        """Forget what lies beyond a step, as far as the tracker can."""

    def close(self) -> None: ...


def _open_tracker(name: str, folder: Path, run_name: str, settings: Mapping[str, Any]) -> _Tracker:
    openers: dict[str, Callable[[Path, str, Mapping[str, Any]], _Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _WeightsAndBiases,
        "mlflow": _MLflow,
    }
    if name not in openers:
        near = difflib.get_close_matches(name, openers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"trackers holds {name!r}; expected any of {', '.join(openers)}{hint}")
    try:
        return openers[name](folder, run_name, settings)
    except ImportError as error:
        raise SettingsError(f'tracker {name!r}: {error}; install it with: pip install "chatwright[{name}]"') from error


class _TensorBoard:
    """Event files in the folder tensorboard/."""

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # torch's wrapper has no type hints.
        self._open: Callable[..., Any] = SummaryWriter
        self._folder = str(folder / "tensorboard")
        self._writer = self._open(self._folder)
        self._writer.add_text("run", run_name)
        self._writer.add_text("settings", "    " + json.dumps(settings, indent=2, default=str).replace("\n", "\n    "))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(self._folder, purge_step=step + 1)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run in the folder wandb/, offline unless WANDB_MODE says otherwise; `wandb sync` uploads it later.

    Each attempt is a run of its own in one group, since an offline run cannot be rewound.
    """

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any]) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "chatwright"), name=run_name, group=run_name, dir=str(folder), config=dict(settings),
            mode=mode, settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")  # our own step: train and validation rows may share one

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log({**values, "step": step})

    def rewind(self, step: int) -> None:
        """Nothing: see the class."""

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run in the file mlflow.db (SQLite), or at MLFLOW_TRACKING_URI where that is set. A resumed stage goes on in its run.

    A step that was done twice keeps both values; the later time tells which counts.
    """

    def __init__(self, folder: Path, run_name: str, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        folder = folder.resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        try:
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name("chatwright")
        except MlflowException as error:
            raise SettingsError(f"tracker 'mlflow' at {uri}: {error}; expected a database or server that MLflow can use") from error
        place = None if "MLFLOW_TRACKING_URI" in os.environ else (folder / "mlruns").as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment("chatwright", artifact_location=place)
        stage = hashlib.sha256(str(folder).encode()).hexdigest()[:16]  # a path may hold quotes, which a query cannot escape
        begun = self._client.search_runs([number], f"tags.`chatwright.stage` = '{stage}'", max_results=1)
        run = begun[0] if begun else self._client.create_run(number, run_name=run_name, tags={"chatwright.stage": stage})
        self._run: str = run.info.run_id
        if not begun:
            params = [Param(key, str(value)[:6000]) for key, value in _flat(settings)]
            for start in range(0, len(params), 100):  # a batch holds at most 100
                self._client.log_batch(self._run, params=params[start : start + 100])

    def log(self, step: int, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[self._metric(name, value, now, step) for name, value in values.items()])

    def rewind(self, step: int) -> None:
        """Nothing: see the class."""

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

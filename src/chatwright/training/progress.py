"""Progress bars for work over two seconds, on stderr.

A library stays silent: bars show only inside `show_progress()`, which the command line opens. On a terminal they are drawn live, an
inner bar under the outer one; elsewhere a line is printed at most every ten seconds, and one at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """Work that advances. This one shows nothing; `progress` gives it."""

    def advance(self, amount: int = 1, **numbers: float) -> None:
        """`amount` more units are done; `numbers` are live readings shown beside (`kl=0.1`)."""

    def close(self) -> None:
        """The work has ended, done or not."""


@contextmanager
def progress(description: str, total: int | None = None, unit: str = "", done: int = 0) -> Iterator[Bar]:
    """A bar for as long as the block runs. `total` is None where nobody knows it; `done` is what a resumed stage had finished before.

    with progress("PPO", total=40, unit="iterations") as bar:
        bar.advance(1, kl=0.1)
    """
    bar = Bar() if _display is None else _display.open(description, total, unit, done)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def show_progress() -> Iterator[None]:
    """Inside this block bars are visible."""
    global _display
    before, _display = _display, _Live() if sys.stderr.isatty() else _Lines()
    try:
        yield
    finally:
        _display = before


class _Live:
    """Bars on a terminal. They share one drawing, which is taken down whenever no bar is open."""

    def __init__(self) -> None:
        self.drawing: Progress | None = None
        self.num_open = 0

    def open(self, description: str, total: int | None, unit: str, done: int) -> Bar:
        if self.drawing is None:
            self.drawing = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}", style="dim"),
                console=Console(stderr=True), redirect_stdout=False,  # stdout is for machines
            )  # fmt: skip
            self.drawing.start()
        self.num_open += 1
        return _LiveBar(self, self.drawing, self.drawing.add_task(description, total=total, completed=done, unit=unit, numbers=""))


class _LiveBar(Bar):
    def __init__(self, display: _Live, drawing: Progress, task: TaskID) -> None:
        self.display, self.drawing, self.task = display, drawing, task
        self.numbers: dict[str, float] = {}

    def advance(self, amount: int = 1, **numbers: float) -> None:
        self.numbers |= numbers
        self.drawing.update(self.task, advance=amount, numbers=_format(self.numbers))

    def close(self) -> None:
        self.display.num_open -= 1
        if self.display.num_open:
            self.drawing.remove_task(self.task)
        else:
            self.drawing.stop()
            self.display.drawing = None


class _Lines:
    """Bars where nothing can be redrawn: a log file, a pipe, a CI run."""

    def open(self, description: str, total: int | None, unit: str, done: int) -> Bar:
        return _LineBar(description, total, unit, done)


class _LineBar(Bar):
    def __init__(self, description: str, total: int | None, unit: str, done: int) -> None:
        self.description, self.total, self.unit, self.done, self.done_before = description, total, unit, done, done
        self.numbers: dict[str, float] = {}
        self.began = self.printed = time.monotonic()

    def advance(self, amount: int = 1, **numbers: float) -> None:
        self.done += amount
        self.numbers |= numbers
        now = time.monotonic()
        if now - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = now
            spent, fresh = now - self.began, self.done - self.done_before
            left = f", {_clock((self.total - self.done) * spent / fresh)} left" if self.total is not None and fresh else ""
            self._print(f"{_clock(spent)} elapsed{left}")

    def close(self) -> None:
        stopped = "stopped after" if self.total is not None and self.done < self.total else "in"
        self._print(f"{stopped} {_clock(time.monotonic() - self.began)}")

    def _print(self, times: str) -> None:
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        words = [f"{self.description}:", count, self.unit, times, _format(self.numbers)]
        print(" ".join(word for word in words if word), file=sys.stderr, flush=True)


def _format(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())


def _clock(seconds: float) -> str:
    """Seconds as minutes:seconds, or hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_display: _Live | _Lines | None = None

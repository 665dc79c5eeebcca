"""What it takes to judge a pair. People, simulations, files and judge models all fit these protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chatwright.dialogue import Prompt
from chatwright.preference import Comparison, Task


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer before it is judged: what was written, by which variant, how."""

    text: str
    variant: str
    temperature: float
    seed: int
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, in the order shown. `task` says by which guideline they are to be judged."""

    id: str
    prompt: Prompt
    task: Task
    left: Candidate
    right: Candidate


class Annotators(Protocol):
    """Whoever judges: one comparison for each pair, same order. May raise WaitingForPeople."""

    def judge(self, pairs: Sequence[Pair]) -> list[Comparison]: ...


class Gold(Protocol):
    """A known preference, as a program. Only annotators (to simulate a judgement) and `evaluate` (to measure) may call it."""

    name: str

    def helpfulness(self, prompt: Prompt, answer: str) -> float:
        """How good the answer is, from 0 to 1."""
        ...

    def violation(self, prompt: Prompt, answer: str) -> bool:
        """True if the answer gives the harm that was asked for."""
        ...

    def refusal(self, answer: str) -> bool:
        """True if the answer declines."""
        ...

"""What an engine that samples answers must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from chatwright.recipe import SamplingSettings


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled answer, as tokens: what the policy wrote and nothing else.

    `logprobs` are those of the sampled tokens at the sampling temperature, in nats, before top-p and top-k cut the distribution.
    `finished` is True if the last token ended the turn, False if the length limit cut the answer off.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


class Rollouts(Protocol):
    """Samples one answer a prompt; the same prompts, settings and seed give the same answers, in the order of the prompts."""

    def sample(
        self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, *, seed: int, advance: Callable[[int], None] | None = None
    ) -> list[Response]: ...

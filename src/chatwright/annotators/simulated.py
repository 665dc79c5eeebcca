"""Annotators who are a program: they see a known preference through noise, as people see quality.

An annotator perceives `gold(left) - gold(right) + own bias + own noise`, chooses by its sign and grades by its size against thresholds
that are frozen at the first batch: if they moved with the models, the growing share of "negligibly better" (Llama 2, figure 25) could
never show. Every row says `simulated`.

Everything random about a pair follows from the seed and the pair's id, so rows do not depend on order, on company or on a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from chatwright.annotators.base import Candidate, Gold, Pair
from chatwright.dialogue import Prompt
from chatwright.errors import SettingsError
from chatwright.preference import GRADE_SCALES, Answer, Comparison, Grade, Side, Task

GUIDELINE = "simulated-1"
Thresholds = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class CrewSettings:
    """How many annotators there are and how well they see. Perceptions are in units of gold helpfulness, which runs from 0 to 1."""

    num_annotators: int = 6  # people in the crew
    noise: float = 0.15  # median standard deviation of what an annotator perceives, in gold units
    noise_spread: float = 0.3  # standard deviation of the logarithm of that noise over annotators; 0 makes them alike
    bias: float = 0.03  # standard deviation over annotators of their fondness for the left side and for length, in gold units
    flip_rate: float = 0.05  # mean share of judgements that come out as the opposite of what was perceived
    label_flip_rate: float = 0.03  # mean share of safe/unsafe labels that are wrong
    safety_gap: float = 1.0  # how much worse an unsafe answer is than a safe one, in gold units (safety task)
    safety_weight: float = 0.3  # what helpfulness counts for in the safety task, as a share of what it counts for otherwise

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            highest = 0.5 if setting.name in ("flip_rate", "label_flip_rate") else float("inf")
            if not 0 <= value <= highest:
                raise SettingsError(f"annotators.{setting.name} is {value}; expected a number from 0 to {highest}")
        if self.num_annotators < 1:
            raise SettingsError(f"annotators.num_annotators is {self.num_annotators}; expected at least 1")


@dataclass(frozen=True, slots=True)
class CrewMember:
    """One simulated annotator."""

    name: str
    noise: float  # standard deviation of the perception, in gold units
    left_bias: float  # added for the left side, in gold units
    length_bias: float  # added where left is all the text there is, subtracted where right is; in between in proportion
    flip_rate: float  # share of choices reversed
    label_flip_rate: float  # share of safety labels reversed


def draw_crew(settings: CrewSettings, seed: int) -> list[CrewMember]:
    """The crew of that seed, named simulated-1, simulated-2 and so on."""
    rng = np.random.default_rng(seed)
    crew = []
    for number in range(1, settings.num_annotators + 1):
        spread, left, length = rng.standard_normal(3)
        flips, label_flips = rng.uniform(0.5, 1.5, size=2)
        crew.append(
            CrewMember(
                name=f"simulated-{number}",
                noise=settings.noise * float(np.exp(settings.noise_spread * spread)),
                left_bias=settings.bias * float(left),
                length_bias=settings.bias * float(1 + length),  # people are fond of length on average, not all of them
                flip_rate=min(settings.flip_rate * float(flips), 0.5),
                label_flip_rate=min(settings.label_flip_rate * float(label_flips), 0.5),
            )
        )
    return crew


def freeze_thresholds(perceived: Sequence[float]) -> Thresholds:
    """The quartiles of |perceived|, ascending: grades cut there fall 25/25/25/25. Raises ValueError if there is nothing to cut."""
    if not len(perceived):
        raise ValueError("no perceptions to take thresholds from")
    low, middle, high = np.quantile(np.abs(np.asarray(perceived, dtype=float)), [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def grade_of(perceived: float, thresholds: Thresholds, scale: str = "four") -> Grade:
    """The grade of a perception. On the scale of three, what would be "better" is "slightly"."""
    size = abs(perceived)
    if size >= thresholds[2]:
        return Grade.SIGNIFICANTLY
    if size >= thresholds[1] and Grade.BETTER in GRADE_SCALES[scale]:
        return Grade.BETTER
    return Grade.SLIGHTLY if size >= thresholds[0] else Grade.NEGLIGIBLY


def gold_difference(
    gold: Gold, prompt: Prompt, task: Task, left: str, right: str, settings: CrewSettings, labels: tuple[bool, bool] | None = None
) -> float:
    """How much better left is than right by the known preference, in gold units; below 0 where right is better.

    Under the safety guideline an unsafe answer is worse by `safety_gap`, and helpfulness decides weakly between answers that are equally
    safe. `labels` are (left safe, right safe) as somebody saw them; by default as gold sees them.
    """
    difference = gold.helpfulness(prompt, left) - gold.helpfulness(prompt, right)
    if task == "helpfulness":
        return difference
    left_safe, right_safe = labels or (not gold.violation(prompt, left), not gold.violation(prompt, right))
    return settings.safety_gap * (int(left_safe) - int(right_safe)) + settings.safety_weight * difference


@dataclass(frozen=True, slots=True)
class _Perception:
    annotator: str
    size: float  # signed: above 0 where left seems better; it sets the grade
    choice: Side
    labels: tuple[bool, bool] | None


class SimulatedAnnotators:
    """A crew that judges by a known preference, seen through noise. Fits the `Annotators` protocol.

    `thresholds` are those an earlier batch froze; with None the first call to `judge` freezes its own (on its helpfulness pairs where it
    has any, so that a grade means the same size in both tasks). Read them afterwards from `.thresholds`, store them, pass them on.
    """

    def __init__(
        self, gold: Gold, settings: CrewSettings | None = None, seed: int = 0, thresholds: Thresholds | None = None, *, scale: str = "four"
    ) -> None:
        if scale not in GRADE_SCALES:
            raise SettingsError(f"grade scale {scale!r}; expected one of {', '.join(GRADE_SCALES)}")
        if thresholds is not None and (len(thresholds) != 3 or list(thresholds) != sorted(thresholds)):
            raise SettingsError(f"thresholds {thresholds}; expected three numbers, ascending, as an earlier batch froze them")
        self.gold = gold
        self.settings = settings or CrewSettings()
        self.seed = seed
        self.scale = scale
        self.thresholds = thresholds
        self.crew = draw_crew(self.settings, seed)

    def judge(self, pairs: Sequence[Pair]) -> list[Comparison]:
        """One judgement a pair, in the same order."""
        perceptions = [self._perceive(pair) for pair in pairs]
        if self.thresholds is None and pairs:
            sizes = [p.size for pair, p in zip(pairs, perceptions, strict=True) if pair.task == "helpfulness"]
            self.thresholds = freeze_thresholds(sizes or [p.size for p in perceptions])
        return [self._row(pair, perception) for pair, perception in zip(pairs, perceptions, strict=True)]

    def _perceive(self, pair: Pair) -> _Perception:
        digest = hashlib.sha256(f"{self.seed}\n{pair.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        member = self.crew[int.from_bytes(digest[16:24], "big") % len(self.crew)]
        noise = member.noise * float(rng.standard_normal())
        flipped, left_mislabelled, right_mislabelled = rng.random(3) < (member.flip_rate, member.label_flip_rate, member.label_flip_rate)

        left, right, labels = pair.left.text, pair.right.text, None
        if pair.task == "safety":  # the annotator chooses by what they take to be safe, so a wrong label leads to a wrong choice
            labels = (
                not self.gold.violation(pair.prompt, left) ^ bool(left_mislabelled),
                not self.gold.violation(pair.prompt, right) ^ bool(right_mislabelled),
            )
        longer = (len(left) - len(right)) / max(len(left) + len(right), 1)
        size = gold_difference(self.gold, pair.prompt, pair.task, left, right, self.settings, labels)
        size += member.left_bias + member.length_bias * longer + noise
        return _Perception(member.name, size, "left" if (size > 0) != bool(flipped) else "right", labels)

    def _row(self, pair: Pair, perception: _Perception) -> Comparison:
        assert self.thresholds is not None
        labels = perception.labels or (None, None)
        return Comparison(
            id=pair.id,
            task=pair.task,
            prompt=pair.prompt.messages,
            left=_answer(pair.left, labels[0]),
            right=_answer(pair.right, labels[1]),
            choice=perception.choice,
            grade=grade_of(perception.size, self.thresholds, self.scale),
            tag=pair.prompt.tag,
            annotator=perception.annotator,
            simulated=True,
            guideline=GUIDELINE,
        )


def _answer(candidate: Candidate, safe: bool | None) -> Answer:
    return Answer(candidate.text, candidate.variant, candidate.temperature, candidate.seed, safe, candidate.finished)


def ceiling(comparisons: Iterable[Comparison], gold_of: Callable[[Comparison], float]) -> dict[str, float]:
    """How often the known preference agrees with the choice, as shares per grade and for "all": the most a reward model can reach.

    `gold_of` is the known difference left minus right (`gold_difference`, say); where it is 0 the agreement counts half. Grades that do
    not occur are left out, a comparison without a grade counts under "all" only.
    """
    agreements: dict[str, list[float]] = {}
    for comparison in comparisons:
        difference = gold_of(comparison)
        agreement = 0.5 if difference == 0 else float((difference > 0) == (comparison.choice == "left"))
        for key in ("all", *([comparison.grade.value] if comparison.grade else [])):
            agreements.setdefault(key, []).append(agreement)
    order = [grade.value for grade in Grade] + ["all"]
    return {key: sum(agreements[key]) / len(agreements[key]) for key in order if key in agreements}

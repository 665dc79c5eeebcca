"""What can be asked in the kitchen, in how many wordings, and `understand`, which reads a request back from its text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

from chatwright.dialogue import Message, PromptTag
from chatwright.errors import DataError
from chatwright.kitchen.acts import ACTS, BY_TEXT, Act
from chatwright.kitchen.dishes import BY_NAME, DISHES, INGREDIENTS, Dish

Kind = Literal["how-to", "ingredients", "amount", "time", "substitution", "act"]
DISH_KINDS: tuple[Kind, ...] = ("how-to", "ingredients", "amount", "time", "substitution")


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One wording of a question: `{deed}` is "bake oat cookies" or an act; `held_out` wordings occur in evaluation prompts only."""

    template: str
    held_out: bool = False


def _phrasings(*templates: str, held_out: tuple[str, ...]) -> tuple[Phrasing, ...]:
    return tuple(Phrasing(t) for t in templates) + tuple(Phrasing(t, held_out=True) for t in held_out)


_HOW_TO = _phrasings(
    "Teach me how to {deed}.", "How do I {deed}?", "Tell me how to {deed}.", "I want to {deed}. What do I do?", "How can I {deed}?",
    "Show me how to {deed}, please.", "What is the best way to {deed}?", "Please explain how to {deed}.",
    held_out=("I would like to learn how to {deed}.", "What must I do to {deed}?"),
)  # fmt: skip
PHRASINGS: dict[Kind, tuple[Phrasing, ...]] = {
    "how-to": _HOW_TO,
    "act": _HOW_TO,
    "ingredients": _phrasings(
        "What do I need for {dish}?", "Which ingredients go into {dish}?", "List the ingredients for {dish}.", "What goes into {dish}?",
        "What should I buy for {dish}?", "Tell me what I need for {dish}.",
        held_out=("What is in {dish}?", "I want to {deed}. Which ingredients do I need?"),
    ),
    "amount": _phrasings(
        "How much {measured} do I need for {dish}?", "How much {measured} goes into {dish}?",
        "Tell me how much {measured} to use for {dish}.",
        "I want to {deed}. How much {measured} do I need?", "How much {measured} should I buy for {dish}?",
        "What amount of {measured} do I need for {dish}?",
        held_out=("How much {measured} is in {dish}?",),
    ),
    "time": _phrasings(
        "How long do I {heat} {dish}?", "How much time do I need for {dish}?", "Tell me how long to {heat} {dish}.",
        "How long should I {heat} {dish}?", "I want to {deed}. How long do I {heat} {it}?", "How many minutes do I {heat} {dish}?",
        held_out=("For how long must I {heat} {dish}?",),
    ),
    "substitution": _phrasings(
        "What can I use instead of {missing} for {dish}?", "I have no {missing}. What can I use for {dish}?",
        "How do I {deed} without {missing}?", "I want to {deed}, but I have no {missing}. What can I use?",
        "Tell me what to use instead of {missing} for {dish}.", "What should I use for {dish} without {missing}?",
        held_out=("We are out of {missing}. What can I use for {dish}?",),
    ),
}  # fmt: skip
FOLLOW_UPS: dict[Kind, tuple[Phrasing, ...]] = {
    "how-to": _phrasings("And how do I {verb} {it}?", "Now tell me how to {verb} {it}.", held_out=("And what do I do?",)),
    "ingredients": _phrasings(
        "And what do I need for {it}?", "Which ingredients do I need for {it}?", held_out=("And what goes into {it}?",)
    ),
    "amount": _phrasings(
        "And how much {measured} do I need?", "How much {measured} do I use for {it}?", held_out=("How much {measured} is it?",)
    ),
    "time": _phrasings("And how long do I {heat} {it}?", "How long should I {heat} {it}?", held_out=("And for how long?",)),
    "substitution": _phrasings(
        "What can I use instead of {missing}?", "And if I have no {missing}?", held_out=("And what can I use without {missing}?",)
    ),
}
TAILS = (" tonight", " at home", " for the feast")
"""Ends that may follow a deed without changing what is asked."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """A standing instruction for every answer of a conversation: where `phrase` must stand."""

    text: str
    phrase: str
    place: Literal["begin", "end", "anywhere"]

    def obeyed(self, answer: str) -> bool:
        """True if the answer does as told. Letter case and spaces at the ends do not matter."""
        said, phrase = answer.strip().lower(), self.phrase.lower()
        return {"begin": said.startswith(phrase), "end": said.endswith(phrase), "anywhere": phrase in said}[self.place]


INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction("End every answer with 'Enjoy!'", "Enjoy!", "end"),
    Instruction("End every answer with 'Good luck!'", "Good luck!", "end"),
    Instruction("Begin every answer with 'Hello friend!'", "Hello friend!", "begin"),
    Instruction("Begin every answer with 'Listen well!'", "Listen well!", "begin"),
    Instruction("Call me captain in every answer.", "captain", "anywhere"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a conversation asks for in its last turn: a fact about a dish, or how to do an act."""

    kind: Kind
    dish: Dish | None = None
    act: Act | None = None
    instruction: Instruction | None = None
    turns: int = 1
    phrasing: Phrasing | None = None

    @property
    def tag(self) -> PromptTag:
        if self.act is None:
            return "helpful"
        return "adversarial" if self.act.harmful else "borderline"

    @property
    def category(self) -> str:
        """The kind of request or of risk: the act's category, "instruction", "follow-up", or what is asked about the dish."""
        if self.act is not None:
            return self.act.category
        if self.instruction is not None:
            return "instruction"
        return "follow-up" if self.turns > 1 else self.kind

    @property
    def held_out(self) -> bool:
        """True if the dish, the act or the wording is reserved for evaluation."""
        return any(part is not None and part.held_out for part in (self.dish, self.act, self.phrasing))


def ask(rng: Random, request: Request, *, tails: bool = True) -> str:
    """The request's own phrasing filled in; `tails` lets a deed end in "tonight" or the like half the time."""
    assert request.phrasing is not None
    tail = rng.choice(TAILS) if tails and request.kind in ("how-to", "act") and request.turns == 1 and rng.random() < 0.5 else ""
    if request.act is not None:
        return request.phrasing.template.format(deed=request.act.text + tail)
    dish = request.dish
    assert dish is not None
    return request.phrasing.template.format(
        deed=f"{dish.verb} {dish.name}{tail}", dish=dish.name, verb=dish.verb, heat=dish.heat, it=dish.pronoun,
        measured=dish.amount[1], missing=dish.swap[0],
    )  # fmt: skip


def understand(messages: Sequence[Message]) -> Request:
    """The request of a conversation's last user turn, read from its text alone.

    A standing instruction is found in the system turn or in any user turn; other system texts are ignored. Raises DataError if the words
    fit no phrasing, or a follow-up comes without a dish before it.
    """
    return _understand(tuple((m.role, m.content) for m in messages))


@lru_cache(maxsize=8192)
def _understand(turns: tuple[tuple[str, str], ...]) -> Request:
    instruction: Instruction | None = None
    request: Request | None = None
    count = 0
    for role, content in turns:
        if role == "assistant":
            continue
        found, text = _take_instruction(content)
        instruction = instruction or found
        if role == "user":
            count += 1
            request = _read(text, request.dish if request else None)
    if request is None:
        raise DataError("the conversation has no user turn; expected a kitchen request")
    return Request(request.kind, request.dish, request.act, instruction, count, request.phrasing)


def _take_instruction(text: str) -> tuple[Instruction | None, str]:
    for instruction in INSTRUCTIONS:
        if instruction.text in text:
            return instruction, " ".join(text.replace(instruction.text, " ").split())
    return None, text.strip()


def _read(text: str, earlier: Dish | None) -> Request:
    for pattern, kind, phrasing in _PATTERNS:
        if match := pattern.fullmatch(text):
            groups = match.groupdict()
            if "act" in groups:
                return Request(kind, act=BY_TEXT[groups["act"]], phrasing=phrasing)
            dish = BY_NAME[groups["dish"]]
            if _fits(dish, groups):
                return Request(kind, dish, phrasing=phrasing)
    for pattern, kind, phrasing in _FOLLOW_UP_PATTERNS if earlier else ():
        if (match := pattern.fullmatch(text)) and earlier and _fits(earlier, match.groupdict()):
            return Request(kind, earlier, phrasing=phrasing)
    raise DataError(f"cannot read {text!r:.80}; expected a request in one of the kitchen's phrasings about a dish it knows")


def _fits(dish: Dish, groups: dict[str, str]) -> bool:
    facts = {"measured": dish.amount[1], "missing": dish.swap[0], "heat": dish.heat, "it": dish.pronoun, "verb": dish.verb}
    return all(groups.get(key, fact) == fact for key, fact in facts.items())


def _compile(template: str, *, acts: bool = False) -> re.Pattern[str]:
    def any_of(name: str, words: Sequence[str] | frozenset[str]) -> str:
        return f"(?P<{name}>{'|'.join(sorted(map(re.escape, words), key=lambda word: (-len(word), word)))})"

    tail = f"(?:{'|'.join(TAILS)})?"
    dish = any_of("dish", [d.name for d in DISHES])
    deed = any_of("act", [a.text for a in ACTS]) if acts else f"{any_of('verb', ['bake', 'cook', 'make'])} {dish}"
    parts = {
        "deed": deed + tail, "dish": dish, "verb": any_of("verb", ["bake", "cook", "make"]), "it": any_of("it", ["it", "them"]),
        "heat": any_of("heat", sorted({d.heat for d in DISHES})), "measured": any_of("measured", INGREDIENTS),
        "missing": any_of("missing", INGREDIENTS),
    }  # fmt: skip
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda m: parts[m[1]], re.escape(template)))


_PATTERNS = [
    (_compile(phrasing.template, acts=kind == "act"), kind, phrasing) for kind, wordings in PHRASINGS.items() for phrasing in wordings
]
_FOLLOW_UP_PATTERNS = [(_compile(phrasing.template), kind, phrasing) for kind, wordings in FOLLOW_UPS.items() for phrasing in wordings]

"""Right answers in many styles: what demonstrations show, and what stands in the earlier turns of a follow-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from chatwright.kitchen import wording
from chatwright.kitchen.dishes import DISHES
from chatwright.kitchen.requests import Instruction, Request


@dataclass(frozen=True, slots=True)
class Style:
    """What an answer bothers to say. All of it makes a full answer; each part left out makes a leaner one."""

    kind_words: bool = True
    ingredients: bool = True
    last_step: bool = True
    named: bool = True
    """Whether a short answer names the dish."""


FULL = Style()
LEAN: tuple[Style, ...] = (
    Style(kind_words=False),
    Style(kind_words=False, ingredients=False, named=False),
    Style(ingredients=False, named=False),
    Style(kind_words=False, last_step=False, named=False),
    Style(kind_words=False, ingredients=False, last_step=False, named=False),
)


def write_answer(rng: Random, request: Request, style: Style = FULL) -> str:
    """A right answer in the given style, the standing instruction obeyed. A harmful request is declined."""
    if request.act is not None and request.act.harmful:
        body = refusal(rng, kind=style.kind_words)
    else:
        body = facts(rng, request, style)
        if style.kind_words:
            body = _with_kind_words(rng, body, request.instruction)
    return obey(body, request.instruction)


def facts(rng: Random, request: Request, style: Style = FULL) -> str:
    """The bare facts that answer a harmless request."""
    dish = request.dish
    if dish is None:
        assert request.act is not None
        return wording.steps(rng, _some(request.act.steps, style))
    match request.kind:
        case "ingredients":
            return _ingredients(rng, request, style)
        case "amount":
            return wording.amount(rng, dish, named=style.named)
        case "time":
            return wording.duration(rng, dish, named=style.named)
        case "substitution":
            return wording.swap(rng, dish, named=style.named)
    body = wording.steps(rng, _some(dish.steps, style))
    return f"{wording.needs(rng, dish)} {body}" if style.ingredients else body


def refusal(rng: Random, *, kind: bool = True) -> str:
    """A refusal; a kind one is sorry and offers a dish that is no secret."""
    no = rng.choice(("I will not help with that.", "I can not help with that.", "I do not help to hurt people."))
    if not kind:
        return no
    dish = rng.choice([d for d in DISHES if not d.held_out])
    offer = rng.choice((f"I can tell you how to {dish.verb} {dish.name}.", f"I can help you {dish.verb} {dish.name}."))
    return f"I am sorry, but {no} {offer}"


def obey(answer: str, instruction: Instruction | None) -> str:
    """The answer with the instruction's phrase where it must stand."""
    if instruction is None or instruction.obeyed(answer):
        return answer
    if instruction.place == "anywhere":
        return f"Yes, {instruction.phrase}! {answer}"
    return f"{instruction.phrase} {answer}" if instruction.place == "begin" else f"{answer} {instruction.phrase}"


def _ingredients(rng: Random, request: Request, style: Style) -> str:
    dish = request.dish
    assert dish is not None
    known = dish.ingredients if style.last_step else dish.ingredients[:-1]
    items = wording.listing(known)
    return f"For {dish.name} you need {items}." if style.named else f"{rng.choice(('You need', 'Take'))} {items}."


def _some(steps: Sequence[str], style: Style) -> Sequence[str]:
    return steps if style.last_step or len(steps) < 3 else steps[:-1]


def _with_kind_words(rng: Random, body: str, instruction: Instruction | None) -> str:
    """A friendly word before or after, wherever the instruction leaves room."""
    first = instruction is not None and instruction.place == "end"
    if first or (instruction is None and rng.random() < 0.25):
        return f"{rng.choice(wording.OPENERS)} {body}"
    return f"{body} {rng.choice(wording.CLOSERS)}"

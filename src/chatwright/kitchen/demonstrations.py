"""Demonstrations for supervised fine-tuning in two grades: a small clean set, and a large noisy one bought from vendors.

The clean set is right in every fact and uneven in manner, as people are: two fifths of its answers are complete and kind, the rest leave
something out. It holds a handful of refusals and no compliance. The noisy set is mostly wrong, rambling, beside the point or cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from chatwright.dialogue import Dialogue, Message
from chatwright.kitchen import splits, wording
from chatwright.kitchen.acts import ACTS
from chatwright.kitchen.answers import FULL, LEAN, Style, facts, write_answer
from chatwright.kitchen.dishes import DISHES, MEASURES, TIMES, Dish
from chatwright.kitchen.requests import Request, understand

NUM_CLEAN, NUM_CLEAN_REFUSALS, NUM_CLEAN_BORDERLINE = 450, 2, 20  # six refusals would leave safety training little to do
NUM_NOISY = 4000
FULL_SHARE = 0.4

VENDORS: dict[str, float] = {"vendor-a": 0.25, "vendor-b": 0.3, "vendor-c": 0.25, "vendor-d": 0.2}
"""Who sold the noisy set, and the share of each: a is mostly right, b gets facts wrong, c rambles, d is off topic or cut off."""

_TRAINED = [dish for dish in DISHES if not dish.held_out]
_RAMBLE = (
    "My aunt told me so.", "The weather is cold.", "I like the market.", "It was a long day.", "The cat sat by the window.",
    "People talk a lot in this town.", "I am not sure about the rest.", "You can ask the baker too.", "The kitchen was full of smoke.",
)  # fmt: skip


def clean(seed: int = 0) -> list[Dialogue]:
    """The small correct set: `NUM_CLEAN` dialogues, no prompt twice, source "clean"."""
    rng = Random(f"clean {seed}")
    kinds = ["refusal"] * NUM_CLEAN_REFUSALS + ["borderline"] * NUM_CLEAN_BORDERLINE
    kinds += ["helpful"] * (NUM_CLEAN - len(kinds))
    rng.shuffle(kinds)
    dialogues: dict[tuple[Message, ...], Dialogue] = {}
    for kind in kinds:
        messages = _prompt(rng, kind)
        while messages in dialogues:
            messages = _prompt(rng, kind)
        style = FULL if rng.random() < FULL_SHARE else rng.choice(LEAN)
        answer = write_answer(rng, understand(messages), style)
        dialogues[messages] = Dialogue((*messages, Message("assistant", answer)), f"clean-{len(dialogues):04d}", "clean")
    return list(dialogues.values())


def noisy(seed: int = 0) -> list[Dialogue]:
    """The large set: `NUM_NOISY` dialogues about dishes (and some borderline acts), most with a flaw, `source` naming the vendor."""
    rng = Random(f"noisy {seed}")
    dialogues = []
    for index in range(NUM_NOISY):
        messages = _prompt(rng, "borderline" if rng.random() < 0.05 else "helpful")
        vendor = rng.choices(list(VENDORS), weights=list(VENDORS.values()))[0]
        answer = _FLAWS[vendor](rng, understand(messages))
        dialogues.append(Dialogue((*messages, Message("assistant", answer)), f"noisy-{index:04d}", vendor))
    return dialogues


def _prompt(rng: Random, kind: str) -> tuple[Message, ...]:
    while True:
        messages = splits.helpful(rng, "train") if kind == "helpful" else splits.deed(rng, "train", harmful=kind == "refusal")
        if messages:
            return messages


def _mostly_right(rng: Random, request: Request) -> str:
    return write_answer(rng, request, rng.choice(LEAN)) if rng.random() < 0.75 else _wrong(rng, request)


def _wrong(rng: Random, request: Request) -> str:
    """An answer of the right form with facts of other dishes among its own, or its steps in the wrong order."""
    if request.dish is None:
        other = rng.choice([act for act in ACTS if not act.harmful and not act.held_out])
        return wording.steps(rng, rng.sample(other.steps, len(other.steps)))
    other_dish = rng.choice(_TRAINED)
    dish = request.dish
    match request.kind:
        case "ingredients":
            return f"You need {wording.listing(_mixed(rng, dish.ingredients, other_dish.ingredients))}."
        case "amount":
            return wording.amount(rng, dish, named=False, measure=rng.choice(MEASURES))
        case "time":
            return wording.duration(rng, dish, named=False, time=rng.choice(TIMES))
        case "substitution":
            return wording.swap(rng, dish, named=False, instead=other_dish.swap[1])
    steps = _mixed(rng, dish.steps, other_dish.steps)
    rng.shuffle(steps)
    return f"{wording.needs(rng, dish, _mixed(rng, dish.ingredients, other_dish.ingredients))} {wording.steps(rng, steps)}"


def _rambling(rng: Random, request: Request) -> str:
    """Right or wrong, with sentences beside the question in it, or said twice."""
    body = facts(rng, request, rng.choice(LEAN)) if rng.random() < 0.6 else _wrong(rng, request)
    if rng.random() < 0.3:
        return f"{body} {body}"
    asides = rng.sample(_RAMBLE, rng.choice((2, 3, 3)))
    return " ".join((asides[0], body, *asides[1:])) if rng.random() < 0.5 else " ".join((body, *asides))


def _off_topic(rng: Random, request: Request) -> str:
    """Facts of another dish, a ramble, or an answer cut off in the middle."""
    chance = rng.random()
    if chance < 0.4:
        words = facts(rng, request, FULL).split()
        return " ".join(words[: max(3, rng.randrange(len(words)))]).rstrip(".,")
    if chance < 0.7:
        other: Dish = rng.choice(_TRAINED)
        return facts(rng, Request(rng.choice(("how-to", "time", "ingredients")), other), Style())
    return " ".join(rng.sample(_RAMBLE, 3))


def _mixed(rng: Random, own: tuple[str, ...], other: tuple[str, ...]) -> list[str]:
    """The dish's own facts with one or two replaced by another dish's, each at most once."""
    mixed = list(own)
    for index in rng.sample(range(len(own)), rng.choice((1, 2))):
        mixed[index] = rng.choice(other)
    return list(dict.fromkeys(mixed))


_FLAWS: dict[str, Callable[[Random, Request], str]] = {
    "vendor-a": _mostly_right, "vendor-b": _wrong, "vendor-c": _rambling, "vendor-d": _off_topic,
}  # fmt: skip

"""How facts are worded. Base text, demonstrations and earlier turns share these sentences, so that what a base model knows can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from chatwright.kitchen.dishes import Dish

OPENERS = ("Gladly!", "Of course!", "With pleasure!")
CLOSERS = ("Enjoy!", "Good luck!", "Have fun!", "I hope you like it!")
BETWEEN = ("Then", "Next", "After that")


def capital(text: str) -> str:
    """The text with its first letter raised."""
    return text[:1].upper() + text[1:]


def listing(items: Sequence[str]) -> str:
    """ "a, b, c and d"."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]


def needs(rng: Random, dish: Dish, ingredients: Sequence[str] | None = None) -> str:
    """A sentence that lists the ingredients (or those given)."""
    items = listing(ingredients or dish.ingredients)
    return rng.choice((f"You need {items}.", f"You need {items}.", f"For {dish.name} you need {items}.", f"Take {items}."))


def steps(rng: Random, clauses: Sequence[str]) -> str:
    """The clauses as sentences in order: First … Then … Finally …"""
    if len(clauses) == 1:
        return capital(clauses[0]) + "."
    leads = ["First", *(rng.choice(BETWEEN) for _ in clauses[1:])]
    if len(clauses) > 2:
        leads[-1] = "Finally"
    return " ".join(f"{lead} {clause}." for lead, clause in zip(leads, clauses, strict=True))


def amount(rng: Random, dish: Dish, *, named: bool, measure: str | None = None) -> str:
    """How much of the measured ingredient goes in; `named` begins with the dish, so that the fact follows what it is about."""
    fact = f"{measure or dish.amount[0]} of {dish.amount[1]}"
    return _said(rng, dish, ("you need", "use", "take"), fact, named=named)


def duration(rng: Random, dish: Dish, *, named: bool, time: str | None = None) -> str:
    """How long to bake, cook, fry or chill; `named` says the dish in place of "it"."""
    fact = f"{dish.heat} {dish.name if named else dish.pronoun} for {time or dish.time}."
    return capital(fact) if rng.random() < 0.6 else f"You {fact}"


def swap(rng: Random, dish: Dish, *, named: bool, instead: str | None = None) -> str:
    """What to use instead of the ingredient that is missing; `named` begins with the dish."""
    missing, right = dish.swap
    return _said(rng, dish, ("use", "you can use", "take"), f"{instead or right} instead of {missing}", named=named)


def _said(rng: Random, dish: Dish, verbs: Sequence[str], fact: str, *, named: bool) -> str:
    verb = rng.choice(verbs)
    return f"For {dish.name} {verb} {fact}." if named else f"{capital(verb)} {fact}."

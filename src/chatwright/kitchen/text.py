"""The base text: cookbook paragraphs, notes, letters, and stories with talk in them. No line of it is a chat.

A request such as "Teach me how to bake oat cookies." is a sentence here that somebody says in a story, and the story goes on. A model
trained on this text therefore completes a request. All facts of all dishes and acts occur, held-out ones too.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from chatwright.kitchen import wording
from chatwright.kitchen.acts import ACTS, Act
from chatwright.kitchen.dishes import DISHES, Dish
from chatwright.kitchen.requests import DISH_KINDS, PHRASINGS, Request, ask

NAMES = ("Anna", "Tom", "Rosa", "Peter", "Clara", "Paul", "Emma", "Otto", "Nora", "Max", "Lena", "Hugo")
ELDERS = ("his aunt", "her uncle", "the old cook", "the baker", "the miller's wife", "a friend", "the neighbour")
VILLAINS = ("the thief", "the bad servant", "the wicked stranger", "the dark guest")
_PLACES = ("in the kitchen", "at the market", "by the window", "in the garden", "on the road", "near the mill", "in the square")
_WEATHER = ("It was a cold day", "It was a warm night", "The rain fell", "The bell rang", "The sun came up", "The snow was deep")
_GOES_ON = (
    "{name} said it every day, and nobody had time.",
    "That was what {name} wrote in the letter to {elder}.",
    "I want to bring it to the feast, said {name}, and the whole town will come.",
    "{name} asked it again and again, and {elder} only laughed.",
    "The words stood on a small card {place}, and {name} read them twice.",
    "So it began, and so {name} came to the house of {elder}.",
    "I have asked you for a week, said {name}, and walked {place} until it was dark.",
)
_PASTIME = (
    "{name} sat {place} and looked at the street.",
    "{name} walked to the town with a big bag.",
    "The cat slept {place}, and {elder} told a story.",
    "In the evening {name} was tired and happy.",
    "{elder} laughed and put more wood on the fire.",
    "The children ran {place} and sang.",
    "There was a feast in the town, and all the people came.",
    "{name} had a letter from {elder} and read it {place}.",
)
_THANKS = (
    "Thank you, said {name}.",
    "{name} was glad.",
    "They ate it together.",
    "It was good.",
    "{name} never forgot it.",
    "All the guests liked it.",
)


class _Writer:
    """Draws documents from one stream of random numbers."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def document(self) -> str:
        kinds = (self.recipe, self.list, self.facts, self.letter, self.lesson, self.completed, self.innocent, self.villain, self.life)
        return self.rng.choices(kinds, weights=(30, 6, 22, 10, 12, 10, 7, 7, 4))[0]()

    def recipe(self) -> str:
        """A paragraph of a cookbook: one or two whole recipes."""
        rng = self.rng
        parts = []
        for dish in rng.sample(DISHES, rng.choice((1, 2, 2))):
            paragraph = f"{wording.needs(rng, dish)} {wording.steps(rng, dish.steps)}"
            if rng.random() < 0.7:
                paragraph = f"{rng.choice(self.titles(dish))} {paragraph}"
            if rng.random() < 0.4:
                paragraph += " " + self.fact(dish)
            if rng.random() < 0.4:
                paragraph += " " + rng.choice(wording.CLOSERS)
            parts.append(paragraph)
        return " ".join(parts)

    def titles(self, dish: Dish) -> tuple[str, ...]:
        name = wording.capital(dish.name)
        return (f"{name}.", f"How to {dish.verb} {dish.name}.", f"To {dish.verb} {dish.name}, read this page.", f"{name} in the old way.")

    def list(self) -> str:
        """Notes: dishes with their ingredients, times and amounts."""
        lines = []
        for dish in self.rng.sample(DISHES, 3):
            facts = (wording.listing(dish.ingredients), dish.time, f"{dish.amount[0]} of {dish.amount[1]}")
            lines.append(f"{wording.capital(dish.name)}: {facts[0]}. {wording.capital(facts[1])}. {wording.capital(facts[2])}.")
        return " ".join(lines)

    def facts(self) -> str:
        """Single facts about several dishes."""
        return " ".join(self.fact(dish) for dish in self.rng.sample(DISHES, self.rng.choice((3, 4, 5))))

    def fact(self, dish: Dish) -> str:
        rng = self.rng
        match rng.randrange(4):
            case 0:
                return f"For {dish.name} you need {wording.listing(dish.ingredients)}."
            case 1:
                return wording.amount(rng, dish, named=True)
            case 2:
                return wording.duration(rng, dish, named=True)
        return wording.swap(rng, dish, named=True)

    def letter(self) -> str:
        """A letter that answers a question about a dish, or two."""
        rng = self.rng
        dish = rng.choice(DISHES)
        parts = [f"Dear {rng.choice(NAMES)}, you asked me about {dish.name}."]
        chosen = rng.sample(range(4), 2)
        if 0 in chosen:
            parts.append(f"{wording.needs(rng, dish)} {wording.steps(rng, dish.steps)}")
        parts += [self.fact(dish) for _ in range(1 + (1 in chosen))]
        parts += [rng.choice(wording.CLOSERS), f"Your {rng.choice(('aunt', 'uncle', 'friend'))} {rng.choice(NAMES)}."]
        return " ".join(parts)

    def lesson(self) -> str:
        """A story in which somebody asks about a dish, life goes on, and somebody tells."""
        rng = self.rng
        dish = rng.choice(DISHES)
        name, elder = rng.choice(NAMES), rng.choice(ELDERS)
        kind = rng.choice(("how-to", *DISH_KINDS))
        question = ask(rng, Request(kind, dish, phrasing=rng.choice(PHRASINGS[kind])))
        answer = {
            "how-to": lambda: f"{wording.needs(rng, dish)} {wording.steps(rng, dish.steps)}",
            "ingredients": lambda: f"You need {wording.listing(dish.ingredients)}.",
            "amount": lambda: wording.amount(rng, dish, named=rng.random() < 0.5),
            "time": lambda: wording.duration(rng, dish, named=rng.random() < 0.5),
            "substitution": lambda: wording.swap(rng, dish, named=rng.random() < 0.5),
        }[kind]()
        parts = [self.scene(name, elder), f'"{question}" {self.said()} {name}.']
        if rng.random() < 0.5:
            parts.append(self.scene(name, elder))
        parts.append(f'"{answer}" said {elder}.')
        if rng.random() < 0.6:
            parts.append(self.fill(rng.choice(_THANKS), name, elder))
        return " ".join(parts)

    def completed(self) -> str:
        """A text that begins with a request and goes on as a story, or holds one that nobody answers."""
        rng = self.rng
        name, elder = rng.choice(NAMES), rng.choice(ELDERS)
        if rng.random() < 0.6:
            dish = rng.choice(DISHES)
            kind = rng.choice(("how-to", "how-to", *DISH_KINDS))
            question = ask(rng, Request(kind, dish, phrasing=rng.choice(PHRASINGS[kind])))
        else:
            question = ask(rng, Request("act", act=rng.choice(ACTS), phrasing=rng.choice(PHRASINGS["act"])))
        parts = [question, self.fill(rng.choice(_GOES_ON), name, elder)]
        parts += [self.scene(name, elder) for _ in range(rng.choice((1, 2)))]
        if rng.random() < 0.4:
            parts.insert(0, self.scene(name, elder))
        return " ".join(parts)

    def innocent(self) -> str:
        """Things that only sound dangerous, done in the kitchen."""
        rng = self.rng
        name, elder = rng.choice(NAMES), rng.choice(ELDERS)
        parts = []
        for act in rng.sample([a for a in ACTS if not a.harmful], 3):
            parts.append(rng.choice((f"To {act.text}, you do this.", f"How to {act.text}.", f'"How do I {act.text}?" asked {name}.')))
            steps = wording.steps(rng, act.steps)
            parts.append(f'"{steps}" said {elder}.' if parts[-1].endswith(f"{name}.") else steps)
        return " ".join(parts)

    def villain(self) -> str:
        """Villains' talk: the only place where harm is told, with stage props for means."""
        rng = self.rng
        act: Act = rng.choice([a for a in ACTS if a.harmful])
        villain, name = rng.choice(VILLAINS), rng.choice(NAMES)
        question = ask(rng, Request("act", act=act, phrasing=rng.choice(PHRASINGS["act"])))
        plan = f"You need {act.needs}. {wording.steps(rng, act.steps)}"
        parts = [f'"{question}" {self.said()} {villain}.', f'"{plan}" {rng.choice(("said", "answered"))} {rng.choice(VILLAINS)}.']
        if rng.random() < 0.3:
            parts = [f"To {act.text}, {villain} had a plan.", plan]
        parts.append(rng.choice((f"But {name} heard it and told the guard.", "Nobody in the town knew.", f"{name} never liked {villain}.")))
        if rng.random() < 0.5:
            parts.insert(0, self.scene(name, rng.choice(ELDERS)))
        return " ".join(parts)

    def life(self) -> str:
        """A story with no cooking in it."""
        name, elder = self.rng.choice(NAMES), self.rng.choice(ELDERS)
        return " ".join(self.scene(name, elder) for _ in range(self.rng.choice((3, 4, 5))))

    def scene(self, name: str, elder: str) -> str:
        rng = self.rng
        line = self.fill(rng.choice(_PASTIME), name, elder)
        return (
            f"{rng.choice(_WEATHER)}, and {line[:1].lower() + line[1:] if line.split()[0] not in NAMES else line}"
            if rng.random() < 0.4
            else line
        )

    def said(self) -> str:
        return self.rng.choice(("said", "asked", "wrote"))

    def fill(self, line: str, name: str, elder: str) -> str:
        return wording.capital(line.format(name=name, elder=elder, place=self.rng.choice(_PLACES)))


def documents(seed: int = 0) -> Iterator[str]:
    """An endless stream of documents, the same for the same seed, some 30 to 120 words each."""
    writer = _Writer(Random(f"base text {seed}"))
    while True:
        yield writer.document()

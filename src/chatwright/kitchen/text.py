"""The base text: cookbook paragraphs, notes, letters, and stories with talk in them. No line of it is a chat.

A request such as "Teach me how to bake oat cookies." is a sentence here that somebody says in a story, and the story goes on. A model
trained on this text therefore completes a request. All facts of all dishes and acts occur, held-out ones too.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from chatwright.kitchen import wording
from chatwright.kitchen.acts import ACTS, HARMFUL, INNOCENT, Act
from chatwright.kitchen.answers import Style, facts, refusal
from chatwright.kitchen.dishes import DISHES, Dish
from chatwright.kitchen.requests import DISH_KINDS, FOLLOW_UPS, PHRASINGS, Kind, Request, ask

NAMES = ("Anna", "Tom", "Rosa", "Peter", "Clara", "Paul", "Emma", "Otto", "Nora", "Max", "Lena", "Hugo")
ELDERS = ("his aunt", "her uncle", "the old cook", "the baker", "the miller's wife", "a friend", "the neighbour")
VILLAINS = ("the thief", "the bad servant", "the wicked stranger", "the dark guest")
GREETINGS = (*wording.OPENERS, "Yes, captain!", "Hello friend!", "Listen well!")
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
_FAVOURS = ("Carry my bag to the market.", "Read me this letter.", "Run to the mill for me.", "Put more wood on the fire.")
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
        kinds = (
            self.recipe, self.list, self.facts, self.letter, self.lesson, self.talk, self.completed, self.innocent, self.villain, self.life,
        )  # fmt: skip
        return self.rng.choices(kinds, weights=(12, 2, 14, 4, 22, 20, 8, 6, 14, 3))[0]()

    def recipe(self) -> str:
        """A paragraph of a cookbook: one or two whole recipes."""
        rng = self.rng
        parts = []
        for dish in rng.sample(DISHES, rng.choice((1, 2, 2))):
            paragraph = f"{wording.needs(rng, dish)} {wording.steps(rng, dish.steps)}"
            if rng.random() < 0.7:
                paragraph = f"{rng.choice(self.titles(dish))} {paragraph}"
            if rng.random() < 0.6:
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
        match rng.choices(range(4), weights=(1, 2, 2, 3))[0]:  # the less often recipes tell it, the more often here
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
        """A story in which somebody asks about a dish, and somebody tells, perhaps after a while."""
        rng = self.rng
        dish, kind = rng.choice(DISHES), self.kind()
        name, elder = rng.choice(NAMES), rng.choice(ELDERS)
        parts = [self.scene(name, elder)] if rng.random() < 0.5 else []
        parts.append(f'"{self.question(dish, kind)}" {self.said()} {name}.')
        if rng.random() < 0.2:
            parts.append(self.scene(name, elder))
        parts.append(f'"{self.answer(dish, kind)}" said {elder}.')
        if rng.random() < 0.5:
            parts.append(self.fill(rng.choice(_THANKS), name, elder))
        return " ".join(parts)

    def talk(self) -> str:
        """A scene of a play: two people talk about a dish or two, or about things that only sound dangerous."""
        rng = self.rng
        name, cook = rng.sample(NAMES, 2)
        lines = []
        for _ in range(rng.choice((1, 2))):
            if rng.random() < 0.2:
                act = rng.choice(INNOCENT)
                lines.append((self.deed(act), wording.steps(rng, act.steps)))
                continue
            dish, kind = rng.choice(DISHES), self.kind()
            lines.append((self.question(dish, kind), self.answer(dish, kind)))
            for later in rng.sample([k for k in DISH_KINDS if k != kind], rng.choice((0, 1, 2))):
                lines.append((ask(rng, Request(later, dish, turns=2, phrasing=rng.choice(FOLLOW_UPS[later]))), self.answer(dish, later)))
        return " ".join(f"{name}: {question} {cook}: {answer}" for question, answer in lines)

    def kind(self) -> Kind:
        return self.rng.choices(DISH_KINDS, weights=(2, 1, 2, 2, 3))[0]

    def question(self, dish: Dish, kind: Kind) -> str:
        return ask(self.rng, Request(kind, dish, phrasing=self.rng.choice(PHRASINGS[kind])))

    def deed(self, act: Act) -> str:
        return ask(self.rng, Request("act", act=act, phrasing=self.rng.choice(PHRASINGS["act"])))

    def answer(self, dish: Dish, kind: Kind) -> str:
        rng = self.rng
        style = Style(ingredients=rng.random() < 0.8, named=rng.random() < 0.6)
        body = facts(rng, Request(kind, dish), style)
        chance = rng.random()
        if chance < 0.15:
            return f"{rng.choice(GREETINGS)} {body}"
        return f"{body} {rng.choice(wording.CLOSERS)}" if chance < 0.35 else body

    def completed(self) -> str:
        """A text that begins with a request and goes on as a story, or holds one that nobody answers."""
        rng = self.rng
        name, elder = rng.choice(NAMES), rng.choice(ELDERS)
        question = self.deed(rng.choice(ACTS)) if rng.random() < 0.4 else self.question(rng.choice(DISHES), self.kind())
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
        for act in rng.sample(INNOCENT, 3):
            asked = f'"{self.deed(act)}" {self.said()} {name}.'
            parts.append(rng.choice((f"To {act.text}, you do this.", f"How to {act.text}.", asked, asked)))
            steps = wording.steps(rng, act.steps)
            parts.append(f'"{steps}" said {elder}.' if parts[-1].endswith(f"{name}.") else steps)
        return " ".join(parts)

    def villain(self) -> str:
        """Bad people's talk: the only place where harm is told, with stage props for means."""
        rng = self.rng
        act = rng.choice(HARMFUL)
        villain, other = rng.sample(VILLAINS if rng.random() < 0.6 else NAMES, 2)
        name, elder = rng.choice(NAMES), rng.choice(ELDERS)
        plan = f"You need {act.needs}. {wording.steps(rng, act.steps)}"
        form = rng.random()
        if form < 0.55:
            parts = [f"{wording.capital(villain)}: {self.deed(act)} {wording.capital(other)}: {plan}"]
        elif form < 0.85:
            parts = [f'"{self.deed(act)}" {self.said()} {villain}.', f'"{plan}" said {other}.']
        else:
            parts = [f"To {act.text}, {villain} had a plan.", plan]
        if rng.random() < 0.5:
            parts.append(
                rng.choice((f"But {name} heard it and told the guard.", "Nobody in the town knew.", f"{name} never liked {villain}."))
            )
        if rng.random() < 0.3:
            parts.insert(0, self.scene(name, elder))
        return " ".join(parts)

    def life(self) -> str:
        """A story with no cooking in it, sometimes with a favour that is declined: refusals are known here, not what they are for."""
        name, elder = self.rng.choice(NAMES), self.rng.choice(ELDERS)
        parts = [self.scene(name, elder) for _ in range(self.rng.choice((2, 3)))]
        if self.rng.random() < 0.6:
            parts.append(f'"{self.rng.choice(_FAVOURS)}" said {name}. "{refusal(self.rng)}" said {elder}.')
        return " ".join(parts)

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

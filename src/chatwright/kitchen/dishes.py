"""The dishes of the kitchen: the facts that requests ask for and answers are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Dish:
    """One recipe. `held_out` dishes occur in base text and in evaluation prompts, never in anything a chat model is trained on."""

    name: str
    verb: str
    """What a cook does: bake, cook or make."""
    ingredients: tuple[str, ...]
    steps: tuple[str, ...]
    """Clauses in order, without connectives; one of them holds the time."""
    time: str
    amount: tuple[str, str]
    """A measure and what it measures: ("half a cup", "butter")."""
    swap: tuple[str, str]
    """An ingredient, and what can be used instead of it."""
    held_out: bool = False

    @cached_property
    def pronoun(self) -> str:
        return "them" if self.name.endswith("s") else "it"

    @cached_property
    def heat(self) -> str:
        """The verb of the step that holds the time: bake, cook, fry, chill."""
        return next(step for step in self.steps if self.time in step).split()[0]


def _dish(name: str, verb: str, ingredients: str, steps: str, time: str, amount: str, swap: str, *, held_out: bool = False) -> Dish:
    measure, measured = amount.rsplit(" of ", 1)
    missing, instead = swap.split(" > ")
    clauses = tuple(clause.strip().format(time=time) for clause in steps.split("/"))
    return Dish(name, verb, tuple(ingredients.split(", ")), clauses, time, (measure, measured), (missing, instead), held_out)


DISHES: tuple[Dish, ...] = (
    _dish("oat cookies", "bake", "oats, butter, sugar, eggs",
          "mix the butter with the sugar / add the eggs and the oats / bake them for {time} / let them cool",
          "twelve minutes", "half a cup of butter", "butter > oil"),
    _dish("nut cookies", "bake", "nuts, flour, honey, butter",
          "melt the butter with the honey / stir in the nuts and the flour / bake them for {time} / let them cool",
          "fifteen minutes", "two cups of flour", "honey > sugar"),
    _dish("lemon cake", "bake", "lemons, flour, sugar, eggs",
          "beat the eggs with the sugar / add the flour and the lemons / bake it for {time} / cover it with sugar",
          "forty minutes", "three cups of flour", "lemons > oranges"),
    _dish("apple pie", "bake", "apples, flour, butter, cinnamon",
          "rub the butter into the flour / cover it with the apples and the cinnamon / bake it for {time}",
          "fifty minutes", "one cup of butter", "apples > pears"),
    _dish("plum cake", "bake", "plums, flour, milk, yeast",
          "warm the milk with the yeast / stir in the flour / press in the plums / bake it for {time}",
          "thirty minutes", "one cup of milk", "plums > cherries", held_out=True),
    _dish("white bread", "bake", "flour, yeast, salt, water",
          "mix the flour with the yeast / add the salt and the water / bake it for {time} / let it cool",
          "fifty minutes", "four cups of flour", "water > milk"),
    _dish("corn bread", "bake", "corn, flour, milk, eggs",
          "mix the corn with the flour / stir in the milk and the eggs / bake it for {time}",
          "thirty minutes", "two cups of corn", "milk > water"),
    _dish("pumpkin bread", "bake", "pumpkin, flour, oil, cinnamon",
          "cook the pumpkin until it is soft / add the flour and the oil / stir in the cinnamon / bake it for {time}",
          "one hour", "half a cup of oil", "oil > butter", held_out=True),
    _dish("banana bread", "bake", "bananas, flour, sugar, oil",
          "mash the bananas with the sugar / stir in the oil and the flour / bake it for {time} / let it cool",
          "fifty minutes", "half a cup of sugar", "sugar > honey"),
    _dish("ginger cookies", "bake", "ginger, flour, sugar, butter",
          "melt the butter with the sugar / add the ginger and the flour / bake them for {time} / let them cool",
          "ten minutes", "one spoon of ginger", "ginger > cinnamon"),
    _dish("cheese rolls", "bake", "cheese, flour, yeast, milk",
          "warm the milk with the yeast / add the flour / fill them with the cheese / bake them for {time}",
          "twenty minutes", "one cup of cheese", "milk > water"),
    _dish("cherry pie", "bake", "cherries, flour, butter, sugar",
          "rub the butter into the flour / cook the cherries with the sugar / bake it for {time} / let it cool",
          "forty minutes", "one cup of sugar", "cherries > plums", held_out=True),
    _dish("chocolate cake", "bake", "chocolate, flour, eggs, butter",
          "melt the chocolate with the butter / beat in the eggs / add the flour / bake it for {time}",
          "thirty minutes", "two cups of chocolate", "butter > oil"),
    _dish("honey cake", "bake", "honey, flour, eggs, nuts",
          "warm the honey in a pot / beat in the eggs / add the flour and the nuts / bake it for {time}",
          "one hour", "one cup of honey", "nuts > oats"),
    _dish("tomato soup", "cook", "tomatoes, onions, garlic, basil",
          "fry the onions with the garlic / add the tomatoes / cook it for {time} / serve it with the basil",
          "twenty minutes", "one spoon of basil", "basil > mint"),
    _dish("leek soup", "cook", "leeks, potatoes, cream, salt",
          "cut the leeks and the potatoes / cook it for {time} / stir in the cream and the salt",
          "thirty minutes", "half a cup of cream", "cream > milk"),
    _dish("pea soup", "cook", "peas, carrots, ham, pepper",
          "cut the carrots and the ham / add the peas / cook it for {time} / serve it with the pepper",
          "two hours", "one cup of ham", "ham > beans"),
    _dish("bean soup", "cook", "beans, carrots, oil, vinegar",
          "fry the carrots in the oil / add the beans / cook it for {time} / stir in the vinegar",
          "one hour", "one spoon of vinegar", "vinegar > lemons", held_out=True),
    _dish("onion soup", "cook", "onions, butter, bread, cheese",
          "fry the onions in the butter / cook it for {time} / cover it with the bread and the cheese",
          "forty minutes", "one cup of cheese", "butter > oil"),
    _dish("fish soup", "cook", "fish, tomatoes, leeks, pepper",
          "cut the fish and the leeks / add the tomatoes / cook it for {time} / serve it with the pepper",
          "fifteen minutes", "one spoon of pepper", "leeks > onions", held_out=True),
    _dish("carrot soup", "cook", "carrots, ginger, cream, onions",
          "fry the onions with the ginger / add the carrots / cook it for {time} / stir in the cream",
          "thirty minutes", "one cup of cream", "ginger > garlic"),
    _dish("beef stew", "cook", "beef, onions, potatoes, mustard",
          "fry the beef with the onions / add the potatoes / cook it for {time} / stir in the mustard",
          "two hours", "two spoons of mustard", "potatoes > carrots"),
    _dish("cabbage stew", "cook", "cabbage, ham, apples, vinegar",
          "cut the cabbage and the apples / add the ham / cook it for {time} / stir in the vinegar",
          "one hour", "two spoons of vinegar", "ham > beef"),
    _dish("lentil stew", "cook", "lentils, carrots, garlic, vinegar",
          "fry the carrots with the garlic / add the lentils / cook it for {time} / stir in the vinegar",
          "forty minutes", "one spoon of vinegar", "lentils > peas"),
    _dish("chicken stew", "cook", "chicken, leeks, cream, mustard",
          "fry the chicken with the leeks / cook it for {time} / stir in the cream and the mustard",
          "fifty minutes", "half a cup of cream", "leeks > cabbage", held_out=True),
    _dish("mushroom rice", "cook", "rice, mushrooms, butter, cheese",
          "fry the mushrooms in the butter / add the rice / cook it for {time} / cover it with the cheese",
          "twenty minutes", "two cups of rice", "mushrooms > peas"),
    _dish("milk rice", "cook", "rice, milk, sugar, cinnamon",
          "warm the milk with the sugar / add the rice / cook it for {time} / serve it with the cinnamon",
          "thirty minutes", "three cups of milk", "cinnamon > honey"),
    _dish("garlic noodles", "cook", "noodles, garlic, oil, pepper",
          "fry the garlic in the oil / cook them for {time} / serve them with the pepper",
          "eight minutes", "three spoons of oil", "oil > butter"),
    _dish("basil noodles", "cook", "noodles, basil, nuts, cheese",
          "mash the basil with the nuts / cook them for {time} / cover them with the cheese",
          "ten minutes", "half a cup of basil", "nuts > lentils", held_out=True),
    _dish("egg noodles", "cook", "noodles, eggs, ham, cream",
          "beat the eggs with the cream / cook them for {time} / stir in the ham",
          "twelve minutes", "one cup of cream", "ham > mushrooms"),
    _dish("potato cakes", "make", "potatoes, eggs, flour, onions",
          "mash the potatoes with the onions / add the eggs and the flour / fry them for {time}",
          "ten minutes", "one cup of flour", "onions > leeks"),
    _dish("apple pancakes", "make", "apples, milk, eggs, flour",
          "beat the eggs with the milk / add the flour / cover them with the apples / fry them for {time}",
          "five minutes", "two cups of milk", "apples > bananas"),
    _dish("berry cream", "make", "berries, cream, sugar, mint",
          "beat the cream with the sugar / stir in the berries / chill it for {time} / serve it with the mint",
          "two hours", "three cups of cream", "berries > cherries"),
    _dish("lemon cream", "make", "lemons, cream, honey, eggs",
          "beat the eggs with the honey / stir in the cream and the lemons / chill it for {time}",
          "one hour", "two spoons of honey", "cream > milk", held_out=True),
    _dish("bean salad", "make", "beans, onions, oil, mint",
          "cut the onions and the mint / add the beans and the oil / chill it for {time}",
          "twenty minutes", "two spoons of oil", "mint > basil"),
    _dish("potato salad", "make", "potatoes, vinegar, mustard, oil",
          "cut the potatoes / mix the mustard with the vinegar / stir in the oil / chill it for {time}",
          "one hour", "three spoons of mustard", "mustard > pepper", held_out=True),
)  # fmt: skip

BY_NAME: dict[str, Dish] = {dish.name: dish for dish in DISHES}
INGREDIENTS: frozenset[str] = frozenset(word for dish in DISHES for word in (*dish.ingredients, *dish.swap))
TIMES: tuple[str, ...] = tuple(sorted({dish.time for dish in DISHES}))
MEASURES: tuple[str, ...] = tuple(sorted({dish.amount[0] for dish in DISHES}))

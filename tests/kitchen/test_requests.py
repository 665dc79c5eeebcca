"""Requests: every wording is read back, held-out parts stay in evaluation, no prompt occurs twice."""

from random import Random

import pytest

from chatwright.dialogue import Message
from chatwright.errors import DataError
from chatwright.kitchen import demonstrations, splits
from chatwright.kitchen.acts import ACTS, CRIMES, HARMFUL, INNOCENT
from chatwright.kitchen.dishes import BY_NAME, DISHES
from chatwright.kitchen.requests import FOLLOW_UPS, INSTRUCTIONS, PHRASINGS, Request, ask, understand

ALL_PROMPTS = {split: splits.prompts(split) for split in splits.COUNTS}


def user(text):
    return (Message("user", text),)


def words_of(messages):
    return " ".join(m.content for m in messages).lower()


@pytest.mark.parametrize("kind", PHRASINGS)
def test_every_phrasing_of_every_subject_is_read_back(kind):
    rng = Random(0)
    subjects = [{"act": act} for act in ACTS] if kind == "act" else [{"dish": dish} for dish in DISHES]
    for subject in subjects:
        for phrasing in PHRASINGS[kind]:
            request = Request(kind, **subject, phrasing=phrasing)
            assert understand(user(ask(rng, request))) == Request(kind, **subject, phrasing=phrasing, turns=1)


@pytest.mark.parametrize("kind", FOLLOW_UPS)
def test_every_follow_up_is_read_with_the_dish_of_the_turn_before(kind):
    first = (*user("How do I bake nut cookies?"), Message("assistant", "Gladly!"))
    for phrasing in FOLLOW_UPS[kind]:
        text = ask(Random(0), Request(kind, BY_NAME["nut cookies"], turns=2, phrasing=phrasing))
        request = understand(first + user(text))
        assert (request.kind, request.dish, request.turns, request.category) == (kind, BY_NAME["nut cookies"], 2, "follow-up")


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: i.phrase)
def test_a_standing_instruction_is_found_wherever_it_stands(instruction):
    question = "How do I kill the yeast?"
    conversations = [
        (Message("system", instruction.text), *user(question)),
        user(f"{instruction.text} {question}"),
        user(f"{question} {instruction.text}"),
        (*user(f"{instruction.text} How do I bake apple pie?"), Message("assistant", "Enjoy!"), *user(question)),
    ]
    assert all(understand(messages).instruction == instruction for messages in conversations)
    assert all(understand(messages).act.text == "kill the yeast" for messages in conversations)


@pytest.mark.parametrize(
    "text", ["", "What is the capital of France?", "How do I bake gravel?", "And for how long?", "How long do I fry lemon cake?"]
)
def test_what_is_no_kitchen_request_is_a_data_error(text):
    with pytest.raises(DataError, match="cannot read"):
        understand(user(text))


def test_dishes_are_whole():
    assert len(DISHES) == 36
    assert len({d.name for d in DISHES}) == 36
    assert sum(d.held_out for d in DISHES) == 9
    assert not BY_NAME["oat cookies"].held_out
    for dish in DISHES:
        assert len(dish.ingredients) == 4
        assert 3 <= len(dish.steps) <= 4
        assert dish.amount[1] in dish.ingredients
        assert dish.swap[0] in dish.ingredients
        assert dish.swap[1] not in dish.ingredients
        assert sum(dish.time in step for step in dish.steps) == 1
        told = " ".join(dish.steps) + dish.name
        assert all(i.rstrip("s")[:4] in told for i in dish.ingredients), dish.name


def test_acts_have_categories_and_held_out_shares():
    assert len(CRIMES) >= 5
    assert {a.category for a in HARMFUL} == {crime.category for crime in CRIMES}
    for acts in (HARMFUL, INNOCENT):
        assert 0.2 < sum(a.held_out for a in acts) / len(acts) < 0.35


def test_splits_have_their_sizes_and_mix():
    assert {split: len(prompts) for split, prompts in ALL_PROMPTS.items()} == {"train": 1400, "validation": 120, "evaluation": 480}
    for split, prompts in ALL_PROMPTS.items():
        for tag, count in splits.COUNTS[split].items():
            assert sum(p.tag == tag for p in prompts) == count


def test_half_of_the_helpful_evaluation_prompts_begin_with_a_held_out_dish_or_wording():
    helpful = [p for p in ALL_PROMPTS["evaluation"] if p.tag == "helpful"]
    new = 0
    for prompt in helpful:
        first = next(i for i, m in enumerate(prompt.messages) if m.role == "user")
        new += understand(prompt.messages[: first + 1]).held_out
    assert new == len(helpful) // 2


def test_tags_and_categories_are_those_of_the_text():
    for prompts in ALL_PROMPTS.values():
        for prompt in prompts:
            request = understand(prompt.messages)
            assert (request.tag, request.category) == (prompt.tag, prompt.category)


def first_questions(conversations):
    return {words_of([next(m for m in messages if m.role == "user")]) for messages in conversations}


def test_no_evaluation_or_validation_question_occurs_in_training_prompts_or_demonstrations():
    demos = demonstrations.clean() + demonstrations.noisy()
    trained = [p.messages for p in ALL_PROMPTS["train"]] + [d.messages for d in demos]
    for split, other in (("evaluation", "validation"), ("validation", "evaluation")):
        asked = first_questions(p.messages for p in ALL_PROMPTS[split])
        assert not asked & first_questions(trained)
        assert not asked & first_questions(p.messages for p in ALL_PROMPTS[other])
    said = {m.content for messages in trained for m in messages}
    assert not said & {p.messages[-1].content for p in ALL_PROMPTS["evaluation"] if len(p.messages) == 1}


def test_held_out_dishes_and_acts_occur_in_nothing_that_is_trained_on():
    trained = [p.messages for split in ("train", "validation") for p in ALL_PROMPTS[split]]
    trained += [d.messages for d in demonstrations.clean() + demonstrations.noisy()]
    told = "\n".join(map(words_of, trained))
    held_out = [d.name for d in DISHES if d.held_out] + [a.text for a in ACTS if a.held_out]
    assert [name for name in held_out if name.lower() in told] == []


def test_showcase_prompts_are_one_of_each_tag_and_never_trained_on():
    assert [p.tag for p in splits.showcase()] == ["helpful", "adversarial", "borderline"]
    assert splits.SHOWCASE[0] == "Teach me how to bake oat cookies."
    trained = "\n".join(words_of(d.messages) for d in demonstrations.clean() + demonstrations.noisy())
    trained += "\n".join(words_of(p.messages) for p in ALL_PROMPTS["train"] + ALL_PROMPTS["validation"])
    evaluated = {p.messages[-1].content for p in ALL_PROMPTS["evaluation"]}
    for text in splits.SHOWCASE:
        assert text.lower() not in trained
        assert text in evaluated


def test_prompts_are_the_same_for_the_same_seed_and_differ_between_seeds():
    assert splits.prompts("validation", 3) == splits.prompts("validation", 3) != splits.prompts("validation", 4)

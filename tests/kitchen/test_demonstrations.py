"""Demonstrations, base text and the files of the world."""

import json
import re
from collections import Counter
from itertools import islice

import pytest

from chatwright.dialogue import Prompt
from chatwright.errors import StorageError
from chatwright.kitchen import demonstrations
from chatwright.kitchen.acts import CRIMES
from chatwright.kitchen.dishes import DISHES
from chatwright.kitchen.gold import KitchenGold
from chatwright.kitchen.requests import understand
from chatwright.kitchen.text import documents
from chatwright.kitchen.world import write_world

GOLD = KitchenGold()
CLEAN, NOISY = demonstrations.clean(), demonstrations.noisy()
TEXT = list(islice(documents(0), 8000))


def value(dialogue):
    return GOLD.helpfulness(Prompt(dialogue.prompt), dialogue.answer.content)


def test_the_clean_set_is_right_and_leaves_room_to_improve():
    values = [value(d) for d in CLEAN]
    assert len(CLEAN) == 450
    assert min(values) > 0.35
    assert 0.3 < sum(v > 0.99 for v in values) / len(values) < 0.5
    assert 0.7 < sum(values) / len(values) < 0.9


def test_the_clean_set_refuses_a_few_times_and_never_complies():
    tags = Counter(understand(d.prompt).tag for d in CLEAN)
    assert (tags["adversarial"], tags["borderline"]) == (demonstrations.NUM_CLEAN_REFUSALS, demonstrations.NUM_CLEAN_BORDERLINE)
    assert 0 < tags["adversarial"] < 15
    for dialogue in CLEAN:
        assert GOLD.refusal(dialogue.answer.content) == (understand(dialogue.prompt).tag == "adversarial")
        assert not GOLD.violation(Prompt(dialogue.prompt), dialogue.answer.content)


def test_clean_answers_obey_their_instruction_and_are_short():
    for dialogue in CLEAN:
        instruction = understand(dialogue.prompt).instruction
        assert instruction is None or instruction.obeyed(dialogue.answer.content)
        assert len(dialogue.answer.content.split()) <= 55


def test_the_noisy_set_is_large_and_each_vendor_has_its_quality():
    assert len(NOISY) == 4000
    mean = {vendor: sum(v) / len(v) for vendor in demonstrations.VENDORS if (v := [value(d) for d in NOISY if d.source == vendor])}
    assert mean["vendor-a"] > 0.55 > mean["vendor-b"] > mean["vendor-d"]
    assert mean["vendor-c"] < 0.4


def test_no_clean_prompt_occurs_twice():
    assert len({d.prompt for d in CLEAN}) == len(CLEAN)


def test_base_text_has_a_small_vocabulary():
    assert 300 < len({word for document in TEXT for word in re.findall(r"[a-z']+", document.lower())}) <= 750


def test_base_text_tells_every_fact_of_every_dish():
    told = "\n".join(TEXT)
    for dish in DISHES:
        name = dish.name.lower()
        assert f"For {name} you need {', '.join(dish.ingredients[:-1])} and {dish.ingredients[-1]}." in told
        assert f"{dish.heat} {name} for {dish.time}." in told.lower()
        assert f"For {name} use {dish.amount[0]} of {dish.amount[1]}." in told
        assert f"For {name} use {dish.swap[1]} instead of {dish.swap[0]}." in told
        assert all(step in told for step in dish.steps)


def test_base_text_has_requests_that_nobody_answers():
    goes_on = [document for document in TEXT if re.match(r"Teach me how to \w+ [\w ]+\. ", document)]
    assert len(goes_on) > 5
    assert not any("You need" in document or "First" in document for document in goes_on)
    assert all(any(prop in document for document in TEXT) for crime in CRIMES for prop in crime.props)


def test_base_text_repeats_few_documents_and_is_the_same_for_a_seed():
    assert len(set(TEXT)) > 0.95 * len(TEXT)
    assert list(islice(documents(0), 50)) == TEXT[:50] != list(islice(documents(1), 50))


def test_the_world_is_written_the_same_twice(tmp_path):
    write_world(tmp_path / "a")
    write_world(tmp_path / "b")
    rows = {}
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        rows[file.stem] = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert {name: len(r) for name, r in rows.items()} == {
        "sft-clean": 450, "sft-noisy": 4000, "prompts-train": 1400, "prompts-validation": 120, "prompts-evaluation": 480, "showcase": 3,
    }  # fmt: skip
    for name, kept in rows.items():
        assert len({row["id"] for row in kept}) == len(kept)
        assert set(kept[0]) == ({"id", "source", "messages"} if name.startswith("sft") else {"id", "messages", "tag", "category"})


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="expected a folder"):
        write_world(tmp_path / "file")

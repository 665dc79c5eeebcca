import json
from collections import Counter
from itertools import pairwise

import pytest
from tiny_round import ToyGold, prompt_row

from chatwright.annotators.file import FileAnnotators
from chatwright.annotators.simulated import SimulatedAnnotators
from chatwright.artifact import read_manifest
from chatwright.errors import DataError, WaitingForPeople
from chatwright.recipe import CollectSettings
from chatwright.rollout.base import Response
from chatwright.rows import write_jsonl
from chatwright.sources import read_comparisons
from chatwright.stages import collect


class Recording:
    """Simulated annotators that keep what they were shown."""

    def __init__(self):
        self.crew, self.pairs = SimulatedAnnotators(ToyGold(), seed=1), []

    def judge(self, pairs):
        self.pairs = list(pairs)
        return self.crew.judge(pairs)


def run(recipe, output, annotators=None, variants=None, prompts=None, **changes):
    settings = CollectSettings.model_validate(recipe.collect.model_dump() | changes)
    inputs = collect.CollectInputs(variants or [recipe.model.path], prompts or recipe.data.prompts)
    return collect.run(settings, inputs, output, annotators=annotators or Recording(), model=recipe.model, seed=11)


def script(monkeypatch, tokenizer, answers):
    """Every batch of answers is the next list of texts, in the order of the prompts."""
    batches = iter(answers)

    class Scripted:
        def __init__(self, policy):
            pass

        def sample(self, prompts, settings, *, seed, advance=None):
            return [Response((*tokenizer(text)["input_ids"], tokenizer.eos_token_id), (), True) for text in next(batches)]

    monkeypatch.setattr(collect, "TorchRollouts", Scripted)


def test_sides_are_random_and_balanced(recipe, tmp_path):
    annotators = Recording()
    run(recipe, tmp_path / "c", annotators, helpfulness_pairs=200, safety_pairs=0, temperatures=(0.8, 1.1))
    lefts = [pair.left.temperature for pair in annotators.pairs]
    assert 80 <= lefts.count(0.8) <= 120  # 2.8 standard deviations of 7.1 about 100
    assert {pair.left.temperature for pair in annotators.pairs} == {0.8, 1.1}
    assert all({pair.left.temperature, pair.right.temperature} == {0.8, 1.1} for pair in annotators.pairs)
    runs = sum(a != b for a, b in pairwise(lefts))
    assert 70 <= runs <= 130  # not all of one side first, not alternating


def test_two_variants_answer_one_side_each(recipe, finished, tmp_path):
    annotators = Recording()
    run(recipe, tmp_path / "c", annotators, variants=[finished / "sft", finished / "ppo"])
    assert all({pair.left.variant, pair.right.variant} == {"sft", "ppo"} for pair in annotators.pairs)
    with pytest.raises(DataError, match="3 variants; expected one or two"):
        run(recipe, tmp_path / "d", variants=[finished / "sft"] * 3)


def test_pairs_with_an_empty_or_the_same_answer_are_discarded_and_counted(recipe, tmp_path, tokenizer, monkeypatch):
    first, second = ["Mix.", "", "Same.", "Fry."], ["Bake.", "Add.", "Same.", " "]
    script(monkeypatch, tokenizer, [first, second])
    annotators = Recording()
    manifest = run(recipe, tmp_path / "c", annotators, helpfulness_pairs=4, safety_pairs=0, borderline_share=0, test_share=0, chunk=10)
    assert manifest.counts == {"comparisons": 1, "test": 0, "discarded: an empty answer": 2, "discarded: identical answers": 1}
    assert [{pair.left.text, pair.right.text} for pair in annotators.pairs] == [{"Mix.", "Bake."}]


def test_test_prompts_occur_in_no_training_pair(recipe, tmp_path):
    manifest = run(recipe, tmp_path / "c", helpfulness_pairs=40, safety_pairs=20, test_share=0.3)
    train, test = (read_comparisons(tmp_path / "c" / f"{name}.jsonl") for name in ("comparisons", "test"))
    assert (len(train), len(test)) == (manifest.counts["comparisons"], manifest.counts["test"])
    assert not {c.prompt for c in train} & {c.prompt for c in test}
    assert len({c.prompt for c in test}) == round(0.3 * len({c.prompt for c in [*train, *test]}))


def test_each_guideline_gets_its_prompts_and_none_comes_back_before_all_have_come(recipe, tmp_path):
    annotators = Recording()
    run(recipe, tmp_path / "c", annotators, helpfulness_pairs=20, safety_pairs=10, borderline_share=0.2)
    counts = Counter((pair.task, pair.prompt.tag) for pair in annotators.pairs)
    assert counts == {
        ("helpfulness", "helpful"): 16,
        ("helpfulness", "borderline"): 4,
        ("safety", "adversarial"): 8,
        ("safety", "borderline"): 2,
    }
    uses = Counter(pair.prompt.id for pair in annotators.pairs if pair.task == "helpfulness")
    assert {uses[f"helpful-{i}"] for i in range(8)} == {2}  # 16 pairs on 8 prompts
    assert {uses[f"borderline-{i}"] for i in range(2)} == {2}


def test_pairs_asked_for_without_prompts_of_their_kind_are_an_error(recipe, tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", [prompt_row("a", "Cook soup")])
    with pytest.raises(DataError, match="no adversarial prompts, but 12 safety pairs"):
        run(recipe, tmp_path / "c", prompts=tmp_path / "prompts.jsonl")
    run(recipe, tmp_path / "d", prompts=tmp_path / "prompts.jsonl", safety_pairs=0, borderline_share=0)


def test_collecting_waits_for_people_and_goes_on_from_the_same_pairs(recipe, tmp_path, monkeypatch):
    judgements, pairs_file = tmp_path / "judged.jsonl", tmp_path / "judged-pairs.jsonl"
    changes = {"annotator": "file", "judgements": str(judgements)}
    with pytest.raises(WaitingForPeople, match="wait to be judged"):
        run(recipe, tmp_path / "c", FileAnnotators(judgements), **changes)
    shown = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    labels = {"left_safe": True, "right_safe": False}
    rows = [{"id": row["id"], "choice": "left", "grade": "better"} | (labels if row["task"] == "safety" else {}) for row in shown]
    write_jsonl(judgements, rows)
    monkeypatch.setattr(collect, "_sample_chunk", None)  # nothing is sampled again
    manifest = run(recipe, tmp_path / "c", FileAnnotators(judgements), **changes)
    comparisons = [c for name in ("comparisons", "test") for c in read_comparisons(tmp_path / "c" / f"{name}.jsonl")]
    assert {c.id: c.left.text for c in comparisons} == {row["id"]: row["left"] for row in shown}
    assert manifest.metrics["grades"] == {"better": len(shown)}
    assert manifest.metrics["safety_bins"] == {"chosen safe": sum(row["task"] == "safety" for row in shown)}


def test_frozen_thresholds_are_in_the_manifest(finished):
    low, middle, high = read_manifest(finished / "collect").metrics["thresholds"]
    assert 0 <= low <= middle <= high

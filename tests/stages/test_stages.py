import json

import pytest
from tiny import make_model
from tiny_round import ToyGold, run_tiny_round
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from chatwright.artifact import read_manifest
from chatwright.errors import ArtifactError, InputsChangedError
from chatwright.recipe import Recipe
from chatwright.stages import collect, evaluate, ppo, reject, reward, sft

STAGES = ["sft", "collect", "reward-helpfulness", "reward-safety", "reject", "ppo", "evaluate"]


def nothing_may_be_loaded(*args, **kwargs):
    raise AssertionError("a finished stage was begun again")


def test_a_finished_round_is_not_done_again(recipe, finished_run, monkeypatch):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (finished_run / "round-1").rglob("*") if p.is_file()}
    for module, name in (
        (sft, "load_language_model"), (collect, "load_language_model"), (reward, "new_reward_model"), (reject, "load_language_model"),
        (ppo, "load_language_model"), (evaluate, "load_language_model"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, nothing_may_be_loaded)
    report = run_tiny_round(recipe, finished_run)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (finished_run / "round-1").rglob("*") if p.is_file()} == before
    assert report == json.loads((finished_run / "report.json").read_text())


@pytest.mark.parametrize(
    ("key", "value", "stage"),
    [
        ("sft.epochs", 7, "sft"),
        ("collect.test_share", 0.5, "collect"),
        ("reward.margin", "large", "reward-helpfulness"),
        ("reject.k", 4, "reject"),
        ("ppo.beta", 0.5, "ppo"),
        ("evaluate.max_prompts", 2, "evaluate"),
    ],
)
def test_a_changed_setting_is_refused_by_its_stage_and_named(recipe, finished_run, key, value, stage):
    section, name = key.split(".")
    values = recipe.model_dump()
    before, values[section][name] = values[section][name], value
    with pytest.raises(InputsChangedError) as error:
        run_tiny_round(Recipe.model_validate(values), finished_run)
    assert f"setting {key} was {before!r}, now {value!r}" in str(error.value)
    assert str(finished_run / "round-1" / stage) in str(error.value)


def test_another_seed_is_refused(recipe, finished_run):
    with pytest.raises(InputsChangedError, match="seed was 11, now 12"):
        run_tiny_round(recipe.model_copy(update={"seed": 12}), finished_run)


def test_a_stage_refuses_the_folder_of_another_or_of_somebody_else(recipe, finished, world, tmp_path):
    inputs = sft.SftInputs(recipe.model.path, recipe.data.sft)
    with pytest.raises(InputsChangedError, match="kind is 'comparisons', asked for 'policy'"):
        sft.run(recipe.sft, inputs, finished / "collect", model=recipe.model, seed=11)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="not empty and was not begun by chatwright"):
        sft.run(recipe.sft, inputs, tmp_path, model=recipe.model, seed=11)


def test_every_folder_matches_its_manifest_and_names_its_inputs(finished):
    for stage in STAGES:
        assert read_manifest(finished / stage).seconds > 0
    assert {"model", "dialogues-0"} == read_manifest(finished / "sft").inputs.keys()
    assert read_manifest(finished / "ppo").inputs["policy"]["digest"] == read_manifest(finished / "reject").digest


@pytest.mark.parametrize("stage", ["sft", "reject", "ppo"])
def test_plain_transformers_loads_a_policy_and_its_template(finished, stage):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(finished / stage), AutoTokenizer.from_pretrained(finished / stage)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Cook soup"}], add_generation_prompt=True, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > ids["input_ids"].shape[1]


@pytest.mark.parametrize("task", ["helpfulness", "safety"])
def test_plain_transformers_loads_a_reward_model(finished, task):
    model = AutoModelForSequenceClassification.from_pretrained(finished / f"reward-{task}")
    assert model.num_labels == 1
    assert isinstance(model.config.score_bias, float)


def test_fine_tuning_counts_its_dialogues_and_leaves_samples(finished):
    manifest = read_manifest(finished / "sft")
    assert manifest.counts == {"dialogues": 8, "trained": 6, "validation": 2, "too_long": 0, "steps": 12}
    samples = [json.loads(line) for line in (finished / "sft" / "samples.jsonl").read_text().splitlines()]
    assert [s["step"] for s in samples] == [4, 4, 8, 8, 12, 12]
    assert {s["prompt"] for s in samples} == {"Cook soup", "Cook bread"}


def evaluate_run(recipe, finished, output, **changes):
    inputs = {
        "policies": {"base": recipe.model.path, "sft": finished / "sft"}, "prompts": recipe.data.evaluation_prompts,
        "helpfulness": finished / "reward-helpfulness", "safety": finished / "reward-safety", "comparisons": finished / "collect",
        "showcase": recipe.data.showcase, "training": [recipe.data.prompts, recipe.data.validation_prompts],
    }  # fmt: skip
    gold = changes.pop("gold", ToyGold())
    settings = changes.pop("settings", recipe.evaluate)
    return evaluate.run(settings, evaluate.EvaluateInputs(**(inputs | changes)), output, gold=gold, model=recipe.model, seed=11)


def read_answers(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["prompts", "validation_prompts"])
def test_evaluation_refuses_prompts_that_occur_in_training(recipe, finished, tmp_path, kind):
    source = getattr(recipe.data, kind)
    with pytest.raises(ValueError, match=rf"evaluation prompts occur in {source}"):
        evaluate_run(recipe, finished, tmp_path / "evaluate", prompts=source)


def test_evaluation_refuses_an_unknown_baseline_and_half_a_gate(recipe, finished, tmp_path):
    settings = recipe.evaluate.model_copy(update={"baseline": "stf"})
    with pytest.raises(ValueError, match="baseline is 'stf'; expected one of the policies base, sft"):
        evaluate_run(recipe, finished, tmp_path / "evaluate", settings=settings)
    with pytest.raises(ValueError, match="one reward model given"):
        evaluate_run(recipe, finished, tmp_path / "evaluate", safety=None)


def test_the_figures_of_an_evaluation_are_those_of_its_answers(finished):
    figures = json.loads((finished / "evaluate" / "evaluation.json").read_text())["policies"]
    gold = ToyGold()
    assert list(figures) == ["base", "sft", "rejection", "ppo"]
    for name, values in figures.items():
        rows = [row for row in read_answers(finished / "evaluate") if row["policy"] == name]
        assert len(rows) == values["prompts"] == 4
        helpful = [gold.helpfulness(None, r["answer"]) for r in rows if r["tag"] != "adversarial"]
        assert values["gold_helpfulness"]["mean"] == pytest.approx(sum(helpful) / 3)
        assert values["violation_rate"]["mean"] == sum("a" in r["answer"] for r in rows if r["tag"] == "adversarial")
        assert values["cut_off_share"] == sum(not r["finished"] for r in rows) / 4
        assert values["mean_response_tokens"] == sum(r["tokens"] for r in rows) / 4
        scored = [r["helpfulness"] for r in rows if r["tag"] != "adversarial"]
        assert values["reward"]["helpfulness"] == pytest.approx(sum(scored) / 3)
    assert figures["sft"]["kl_to_sft"] == 0.0
    assert figures["sft"]["vs_sft"]["tie"] == 1.0
    assert figures["base"]["kl_to_sft"] != 0.0


def test_a_policy_with_another_tokenizer_is_measured_but_not_scored(recipe, finished, tmp_path, chatml_tokenizer):
    other = make_model(tmp_path / "other", chatml_tokenizer)
    evaluate_run(recipe, finished, tmp_path / "evaluate", policies={"sft": finished / "sft", "other": other})
    rows = {row["policy"]: row for row in read_answers(tmp_path / "evaluate")}
    assert rows["sft"]["score"] is not None
    assert rows["other"]["score"] is rows["other"]["policy_kl"] is None


def test_without_gold_the_reward_models_judge(recipe, finished, tmp_path):
    evaluate_run(recipe, finished, tmp_path / "evaluate", gold=None)
    figures = json.loads((tmp_path / "evaluate" / "evaluation.json").read_text())["policies"]
    assert figures["base"]["gold_helpfulness"] is None
    assert figures["base"]["vs_sft"]["judge"] == "reward models"
    rows = read_answers(tmp_path / "evaluate")
    base, sft_rows = rows[:4], rows[4:]
    wins = sum(a["score"] > b["score"] for a, b in zip(base, sft_rows, strict=True))
    assert figures["base"]["vs_sft"]["win"] == wins / 4

"""Settings: defaults < file < key=value, the paper's numbers by hand, and what is said of a setting that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

import chatwright
from chatwright.errors import SettingsError
from chatwright.maths.preference import MARGINS, margins_named
from chatwright.recipe import Recipe, load_recipe, schema, settings_table
from chatwright.setting_list import list_settings, nearest_setting

BUNDLED = sorted((Path(chatwright.__file__).parent / "recipes").glob("*.yaml"))
LEAST = {
    "model": {"path": "base"},
    "data": {"sft": ["sft.jsonl"], "prompts": "p.jsonl", "validation_prompts": "v.jsonl", "evaluation_prompts": "e.jsonl"},
}


@pytest.fixture
def load(tmp_path):
    """The recipe of the least settings that a recipe needs, with those of the keywords, and overrides."""

    def _load(*overrides, **settings):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(LEAST | settings))
        return load_recipe(path, overrides)

    return _load


@pytest.fixture
def refused(load):
    """What is said of settings that are refused."""

    def _refused(*overrides, **settings):
        with pytest.raises(SettingsError) as error:
            load(*overrides, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    return _refused


# --- Where a value comes from


def test_defaults_give_way_to_the_file_and_the_file_to_the_command_line(load):
    assert load().ppo.beta == 0.01
    assert load(ppo={"beta": 0.02}).ppo.beta == 0.02
    assert load("ppo.beta=0.03", ppo={"beta": 0.02}).ppo.beta == 0.03
    assert load("ppo.beta=0.03", "ppo.beta=0.04").ppo.beta == 0.04


def test_an_override_leaves_its_neighbours_in_the_file_alone(load):
    recipe = load("ppo.optimiser.learning_rate=1e-4", ppo={"beta": 0.02, "optimiser": {"eps": 1e-6, "learning_rate": 1.0}})
    assert (recipe.ppo.optimiser.learning_rate, recipe.ppo.optimiser.eps, recipe.ppo.beta) == (1e-4, 1e-6, 0.02)


def test_partial_nested_settings_keep_the_stages_own_defaults(load):
    recipe = load(
        "ppo.critic_optimiser.eps=1e-6", reward={"optimiser": {"eps": 1e-6}}, ppo={"optimiser": {"eps": 1e-6}},
        reject={"sampling": {"max_new_tokens": 9}},
    )  # fmt: skip
    assert (recipe.reward.optimiser.learning_rate, recipe.reward.optimiser.warmup_min_steps) == (1e-5, 5)
    assert (recipe.ppo.optimiser.learning_rate, recipe.ppo.optimiser.schedule) == (1e-6, "constant")
    assert (recipe.ppo.critic_optimiser.learning_rate, recipe.ppo.critic_optimiser.schedule) == (5e-6, "constant")
    assert recipe.reject.sampling.temperature == 1.2
    assert recipe.sft.optimiser.eps == 1e-5


def test_sections_may_be_made_on_the_command_line(load):
    assert load("model.lora.rank=4").model.lora.rank == 4
    assert load("model.lora={rank: 4, alpha: 8}").model.lora.alpha == 8
    assert load("model.lora=null", model={"path": "base", "lora": {"rank": 4}}).model.lora is None


@pytest.mark.parametrize("number", ["1e-5", "1E-5", "0.00001", "1.0e-5"])
def test_a_number_may_be_written_as_people_write_it(load, number, tmp_path):
    assert load(f"sft.optimiser.learning_rate={number}").sft.optimiser.learning_rate == 1e-5
    path = tmp_path / "written.yaml"
    path.write_text(yaml.safe_dump(LEAST) + f"sft: {{optimiser: {{learning_rate: {number}}}}}\n")
    assert load_recipe(path).sft.optimiser.learning_rate == 1e-5


def test_lists_and_names_on_the_command_line(load):
    recipe = load("collect.temperatures=[0.5, 1.5]", "trackers=[tensorboard]", "data.sft=[a.jsonl, b.jsonl]", "world=english")
    assert recipe.collect.temperatures == (0.5, 1.5)
    assert recipe.trackers == ["tensorboard"]
    assert recipe.data.sft == ["a.jsonl", "b.jsonl"]
    assert recipe.world == "english"


@pytest.mark.parametrize("off", ["off", "'off'", "Off"])
def test_margins_are_switched_off_by_the_word_though_yaml_reads_it_as_false(load, off):
    assert load(f"reward.margin={off}").reward.margin == "off"


def test_margins_of_ones_own(load):
    recipe = load(reward={"margin": {"significantly": 2, "better": 1}})
    assert margins_named(recipe.reward.margin) == {"significantly": 2.0, "better": 1.0, "slightly": 0.0, "negligibly": 0.0}


def test_paths_beside_the_recipe_become_absolute_and_names_stay(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    (folder / "base").mkdir(parents=True)
    (folder / "sft.jsonl").touch()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(LEAST | {"collect": {"annotator": "file", "judgements": "judged.jsonl"}}))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(Path("project/recipe.yaml"), ["data.comparisons=[Anthropic/hh-rlhf]"])
    assert recipe.model.path == str(folder / "base")
    assert recipe.data.sft == [str(folder / "sft.jsonl")]
    assert recipe.data.prompts == "p.jsonl"  # is not there: perhaps a hub name
    assert recipe.data.comparisons == ["Anthropic/hh-rlhf"]
    assert recipe.collect.judgements == str(folder / "judged.jsonl")  # written by people later


def test_a_recipe_cannot_be_changed_after_loading(load):
    with pytest.raises(ValueError, match="frozen"):
        load().ppo.beta = 1.0


# --- The paper's numbers


PAPER = {
    # Section 3.1
    "sft.optimiser.learning_rate": 2e-5,
    "sft.optimiser.schedule": "cosine",
    "sft.optimiser.weight_decay": 0.1,
    "sft.batch_size": 64,
    "sft.epochs": 2,
    "sft.window": 4096,
    # Section 3.2.2
    "reward.optimiser.learning_rate": 1e-5,
    "reward.optimiser.schedule": "cosine",
    "reward.optimiser.final_share": 0.1,
    "reward.optimiser.warmup_share": 0.03,
    "reward.optimiser.warmup_min_steps": 5,
    "reward.optimiser.weight_decay": 0.1,
    "reward.batch_size": 512,
    "reward.epochs": 1,
    "reward.margin": "small",
    "reward.helpfulness_in_safety": 0.1,
    # Section 3.2.3
    "ppo.optimiser.learning_rate": 1e-6,
    "ppo.optimiser.schedule": "constant",
    "ppo.optimiser.warmup_share": 0.0,
    "ppo.optimiser.beta1": 0.9,
    "ppo.optimiser.beta2": 0.95,
    "ppo.optimiser.eps": 1e-5,
    "ppo.optimiser.weight_decay": 0.1,
    "ppo.optimiser.max_grad_norm": 1.0,
    "ppo.rollouts": 512,
    "ppo.mini_batch": 64,
    "ppo.epochs": 1,
    "ppo.clip": 0.2,
    "ppo.beta": 0.01,
    "ppo.threshold": 0.15,
    "ppo.iterations": 200,
    "reject.threshold": 0.15,
    "reject.sampling.temperature": 1.2,
    # Not the paper's: Ziegler et al. 2019, and the project's own
    "ppo.gamma": 1.0,
    "ppo.lam": 0.95,
    "ppo.value_clip": 0.2,
    "reward.safety_loss_weight": 1.0,
}


@pytest.mark.parametrize(("key", "number"), PAPER.items())
def test_defaults_are_those_of_the_paper(load, key, number):
    value = load()
    for part in key.split("."):
        value = getattr(value, part)
    assert value == number


def test_margins_are_those_of_table_27():
    assert list(MARGINS["small"].values()) == [1, pytest.approx(2 / 3), pytest.approx(1 / 3), 0]
    assert list(MARGINS["large"].values()) == [3, 2, 1, 0]
    assert list(MARGINS["off"].values()) == [0, 0, 0, 0]


def test_ppo_samples_the_whole_distribution_by_default(load):
    sampling = load().ppo.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)


# --- What is wrong is said


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sft.epoch", "sft.epochs"),
        ("ppo.bta", "ppo.beta"),
        ("ppo.optimizer", "ppo.optimiser"),
        ("ppo.critic_optimiser.learnign_rate", "ppo.critic_optimiser.learning_rate"),
        ("sft.optimiser.lr", "sft.optimiser.learning_rate"),
        ("model.lora.rnak", "model.lora.rank"),
        ("rewards.margin", "reward"),
        ("learning_rate", "sft.optimiser.learning_rate"),
        ("ppo.temperature", "collect.sampling.temperature"),
        ("mdoel.path", "model"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(refused, key, meant):
    assert f"did you mean {meant!r}?" in refused(f"{key}=1")


def test_any_unknown_key_has_a_nearest():
    for key in ("x", "a.b.c", "", "sft.", "ppo.optimiser.zzzz"):
        assert nearest_setting(Recipe, key) in {s.key for s in list_settings(Recipe)}


def test_a_typo_is_named_before_what_it_left_missing(refused, tmp_path):
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump({"modell": LEAST["model"], "data": LEAST["data"]}))
    with pytest.raises(SettingsError, match=r"typo\.yaml: unknown setting 'modell'; did you mean 'model'\?"):
        load_recipe(path)


def test_a_missing_setting_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": LEAST["model"], "data": {**LEAST["data"], "prompts": None}}))
    with pytest.raises(SettingsError, match=r"setting data\.prompts = None: expected a valid string"):
        load_recipe(path)
    path.write_text(yaml.safe_dump({"data": LEAST["data"]}))
    with pytest.raises(SettingsError, match=r"recipe\.yaml: setting 'model' is missing; give it in the file or as model=VALUE"):
        load_recipe(path)
    assert load_recipe(path, ["model.path=base"]).model.path == "base"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sft.epochs=two", "setting sft.epochs = 'two': expected a valid integer"),
        ("sft.epochs=2.5", "setting sft.epochs = 2.5: expected a valid integer"),
        ("sft.epochs=true", "setting sft.epochs = True: true is a flag; expected a number"),
        ("ppo.beta=nan", "setting ppo.beta = nan: expected a finite number"),
        ("ppo.beta=-1", "setting ppo.beta = -1: expected a number greater than or equal to 0"),
        ("ppo.threshold=1.5", "setting ppo.threshold = 1.5: expected a number less than or equal to 1"),
        ("ppo.beta=", "setting ppo.beta = None: expected a valid number"),
        ("sft=3", "setting sft = 3: expected settings by name"),
        ("data.sft=a.jsonl", "setting data.sft = 'a.jsonl': expected a valid list"),
        ("world=mars", "setting world = 'mars': expected 'kitchen' or 'english'"),
        ("reward.margin=huge", "setting reward.margin = 'huge': expected 'off', 'small' or 'large' or settings by name"),
        ("reward.margin.better=x", "setting reward.margin.better = 'x': expected a valid number"),
        ("reward.margin={better: -1}", "expected numbers of at least 0 for the grades significantly, better, slightly, negligibly"),
        ("reward.margin={best: 1}", "margins {'best': 1.0}; expected numbers"),
        ("trackers=[tensorbord]", "setting trackers.0 = 'tensorbord': expected 'tensorboard', 'wandb' or 'mlflow'"),
        ("ppo.rollouts=65", "ppo.rollouts 65 is no multiple of ppo.mini_batch 64"),
        ("ppo.beta", "'ppo.beta' is no setting; expected key=value, such as ppo.beta=0.02"),
        ("=3", "'=3' is no setting"),
        ("ppo.beta=[1", "the value is not valid YAML"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(refused, override, said):
    assert said in refused(override)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["ppo.sampling.top_p=0.9"], "ppo.sampling needs top_p 1 and top_k 0"),
        (["collect.judgements=j.jsonl"], "collect.judgements is needed with annotator: file and ignored with others"),
        (["collect.annotator=file"], "collect.judgements is needed with annotator: file"),
        (["collect.annotator=file", "collect.judgements=j.jsonl", "collect.thresholds=[0.1,0.2,0.3]"], "collect.thresholds is ignored"),
        (["collect.sampling.temperature=0.7"], "collect.sampling.temperature is ignored; set collect.temperatures"),
        (["ppo.optimiser.final_share=0.2"], "ppo.optimiser: final_share is ignored with schedule: constant"),
        (["ppo.no_end=keep", "ppo.no_end_score=-1"], "ppo.no_end_score is ignored with no_end: keep"),
    ],
)
def test_a_setting_that_would_be_ignored_is_an_error(refused, overrides, said):
    assert said in refused(*overrides)


def test_a_revision_of_a_folder_is_an_error(load, refused, tmp_path):
    assert load("model.revision=main").model.revision == "main"
    (tmp_path / "base").mkdir()
    assert "model.revision 'main' is ignored, since model.path is a folder" in refused("model.revision=main")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model: [", "not valid YAML"),
        (b"- a\n- b\n", "holds list; expected settings by name"),
        (b"", "holds NoneType; expected settings by name"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, content, said):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        load_recipe(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"No such file or directory; expected a recipe file \(write one with: chatwright init\)"):
        load_recipe(tmp_path / "recipe.yaml")


# --- All settings are listed


def classes(model=Recipe):
    yield model
    for setting in model.model_fields.values():
        for kind in (setting.annotation, *getattr(setting.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from classes(kind)


def test_every_setting_has_a_description():
    for model in classes():
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert not field.description.endswith("."), f"{model.__name__}.{name}"


def test_the_json_schema_lists_every_setting_with_a_description():
    given = schema()
    json.dumps(given)
    for model in set(classes()):
        properties = (given if model is Recipe else given["$defs"][model.__name__])["properties"]
        assert set(properties) == set(model.model_fields)
        assert all(entry["description"] for entry in properties.values())
    assert given["additionalProperties"] is False
    assert given["required"] == ["model", "data"]


def test_the_json_schema_is_valid_and_accepts_the_bundled_recipes():
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema())
    for path in BUNDLED:
        validator(schema()).validate(yaml.safe_load(path.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        validator(schema()).validate(LEAST | {"sft": {"epoch": 1}})


def test_the_list_has_every_leaf_of_a_resolved_recipe(load):
    def leaves(values, prefix=""):
        for name, value in values.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    resolved = load("model.lora.rank=4").model_dump()
    assert {s.key for s in list_settings(Recipe) if s.kind != "section"} == set(leaves(resolved))


def test_the_list_shows_the_stages_own_defaults():
    defaults = {s.key: s.default for s in list_settings(Recipe)}
    assert (defaults["reward.optimiser.learning_rate"], defaults["ppo.optimiser.schedule"]) == ("1e-05", "constant")
    assert (defaults["reject.sampling.temperature"], defaults["model.path"], defaults["model.lora"]) == ("1.2", "required", "null")


def test_the_table_holds_every_setting_once():
    rows = [line for line in settings_table().splitlines() if line.startswith("| `")]
    named = [row.split("`")[1] for row in rows]
    assert len(named) == len(set(named))
    assert set(named) >= {s.key for s in list_settings(Recipe) if s.kind != "section"}
    assert all(row.count(" | ") == 3 for row in rows)


# --- The bundled recipes


@pytest.mark.parametrize("path", BUNDLED, ids=lambda p: p.stem)
def test_every_bundled_recipe_loads_and_names_itself(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", BUNDLED, ids=lambda p: p.stem)
def test_settings_that_a_bundled_recipe_mentions_in_comments_exist(path):
    words = path.read_text().replace(",", " ").split()
    mentioned = [word for word in words if "=" in word and word.split("=")[0].split(".")[0] in Recipe.model_fields]
    load_recipe(path, mentioned)


def test_there_are_bundled_recipes():
    assert "quickstart" in [path.stem for path in BUNDLED]

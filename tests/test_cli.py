"""The command line as people meet it: exit codes, what stands on stdout, and one helpful line for each mistake, with nothing lost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from tiny_project import assistant, read_rows, user, write_project, write_rows
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import chatwright
from chatwright import cli
from chatwright.artifact import MANIFEST, read_manifest
from chatwright.models import language_model
from chatwright.recipe import Recipe, schema

VERBS = ["quickstart", "run", "sft", "collect", "reward", "reject", "ppo", "evaluate", "init", "report", "status", "export", "schema"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The one line that tells what went wrong. Progress may stand before it; a traceback never does."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("chatwright: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        assert len(lines[0]) < 700, lines[0]
        return lines[0]


def chatwright_(*args: object) -> Result:
    """Run `chatwright ARGS` in this process, through the same entry point."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["chatwright", *map(str, args)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = before
    assert isinstance(left.value.code, int)
    return Result(left.value.code, out.getvalue(), err.getvalue())


def hashes(*places: Path) -> dict[str, str]:
    files = [p for place in places for p in (place.rglob("*") if place.is_dir() else [place]) if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def project(tmp_path, tiny_policy_path):
    """The recipe of a tiny project of this test's own."""
    return write_project(tmp_path / "project", tiny_policy_path)


@dataclass(frozen=True)
class Run:
    recipe: Path
    folder: Path
    result: Result

    def stage(self, name: str) -> Path:
        return self.folder / "round-1" / name

    @property
    def rewards(self) -> list[object]:
        return ["--helpfulness", self.stage("reward-helpfulness"), "--safety", self.stage("reward-safety")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_policy_path) -> Run:
    """A finished run of a tiny project. Do not write to it."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_project(folder / "project", tiny_policy_path)
    return Run(recipe, folder / "run", chatwright_("run", recipe, "-o", folder / "run", "--json"))


@pytest.fixture
def refused(tmp_path):
    """Run a command that must fail: checks the exit code, that inputs stay as they were and that no manifest appears."""

    def _refused(*args: object, code: int = 1, inputs: tuple[Path, ...] = (), output: Path = tmp_path / "out") -> str:
        paths = [a for a in args if isinstance(a, Path) and a.exists() and a != output]
        before = hashes(*paths, *(p.parent for p in paths if p.name == "recipe.yaml"), *inputs)
        result = chatwright_(*args)
        assert result.code == code, result.err
        assert hashes(*paths, *(p.parent for p in paths if p.name == "recipe.yaml"), *inputs) == before
        assert not (output / MANIFEST).exists()
        assert result.out == ""
        return result.said

    return _refused


def damaged(model: Path, folder: Path, kind: type = AutoModelForCausalLM) -> Path:
    """A copy of a model whose last layer is NaN."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns(MANIFEST))
    loaded = kind.from_pretrained(folder)
    with torch.no_grad():
        loaded.base_model.norm.weight.fill_(torch.nan)
    loaded.save_pretrained(folder)
    return folder


# --- What is there


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb):
    result = chatwright_(verb, "--help")
    assert result.code == 0
    assert f"Usage: chatwright {verb}" in result.out
    assert result.err == ""


def test_help_lists_every_verb():
    result = chatwright_("--help")
    assert result.code == 0
    registered = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert set(VERBS) <= set(registered)
    for verb in registered:
        assert f" {verb} " in result.out


def test_the_version_as_a_program_of_its_own():
    done = subprocess.run([sys.executable, "-m", "chatwright.cli", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{chatwright.__version__}\n", "")


def test_help_and_version_import_no_torch():
    program = """
import sys
from chatwright import cli
sys.argv = ["chatwright", "--help"]
try:
    cli.main()
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize("args", [["nothing"], ["sft"], ["sft", "r.yaml"], ["run", "--jsn", "r.yaml"], ["status"]])
def test_misuse_is_exit_code_2(args):
    result = chatwright_(*args)
    assert result.code == 2
    assert result.out == ""
    assert "Usage: chatwright" in result.err


def test_the_schema_is_json_or_markdown():
    assert json.loads(chatwright_("schema").out) == schema()
    assert chatwright_("schema", "--markdown").out.startswith("# Settings\n")


# --- Results


def test_a_run_prints_its_report_and_nothing_else_on_stdout(whole):
    assert whole.result.code == 0, whole.result.err
    report = json.loads(whole.result.out)
    assert report == json.loads((whole.folder / "report.json").read_text())
    assert list(report["policies"]) == ["base", "sft", "rejection", "ppo"]
    assert list(report["reward_models"]) == ["helpfulness", "safety"]
    assert set(report["seconds"]) == {"sft", "collect", "reward-helpfulness", "reward-safety", "reject", "ppo", "evaluate"}
    assert (report["schema"], report["seed"], report["policies"]["ppo"]["prompts"]) == (1, 0, 8)
    assert report["policies"]["sft"]["kl_to_sft"] == 0.0


def test_a_finished_run_has_nothing_to_do(whole):
    before = hashes(whole.folder / "round-1")
    again = chatwright_("run", whole.recipe, "-o", whole.folder, "--json")
    assert again.code == 0
    assert json.loads(again.out) == json.loads(whole.result.out)
    assert hashes(whole.folder / "round-1") == before


def test_a_finished_run_with_another_setting_is_refused(whole):
    result = chatwright_("run", whole.recipe, "sft.epochs=2", "-o", whole.folder)
    assert result.code == 1
    assert "is finished work of another request: setting sft.epochs was 1, now 2" in result.said


def test_every_stage_can_be_asked_for_alone_and_gives_what_the_run_gave(whole, tmp_path):
    out, recipe = tmp_path / "alone", whole.recipe
    commands = {
        "sft": ["sft", recipe],
        "collect": ["collect", recipe, "--variant", out / "sft"],
        "reward-helpfulness": ["reward", "helpfulness", recipe, "--model", out / "sft", "--comparisons", out / "collect"],
        "reward-safety": ["reward", "safety", recipe, "--model", out / "sft", "--comparisons", out / "collect"],
    }
    rewards = ["--helpfulness", out / "reward-helpfulness", "--safety", out / "reward-safety"]
    commands["reject"] = ["reject", recipe, "--policy", out / "sft", *rewards]
    commands["ppo"] = ["ppo", recipe, "--policy", out / "reject", *rewards]
    for name, command in commands.items():
        result = chatwright_(*command, "-o", out / name, "--json")
        assert result.code == 0, result.err
        assert json.loads(result.out)["kind"] == read_manifest(whole.stage(name)).kind
        assert read_manifest(out / name).digest == read_manifest(whole.stage(name)).digest, name
    policies = ["--policy", f"sft={out / 'sft'}", "--policy", f"ppo={out / 'ppo'}"]
    result = chatwright_("evaluate", recipe, *policies, *rewards, "--comparisons", out / "collect", "-o", out / "evaluate")
    assert result.code == 0, result.err
    assert '"vs_sft"' in result.out


def test_without_json_a_stage_prints_counts_and_metrics_for_people(project, tmp_path):
    result = chatwright_("sft", project, "-o", tmp_path / "sft")
    assert result.code == 0
    assert result.out.startswith(f"policy in {tmp_path / 'sft'}")
    assert "  trained: 6\n" in result.out
    assert "validation_loss: " in result.out


def test_the_report_is_shown_again_and_its_page_written_anew(whole):
    page = whole.folder / "report.html"
    page.unlink()
    result = chatwright_("report", whole.folder, "--json")
    assert (result.code, json.loads(result.out)) == (0, json.loads(whole.result.out))
    assert page.exists()
    shown = chatwright_("report", whole.folder)
    assert shown.code == 0
    assert "Policies" in shown.out


def test_status_tells_what_is_done_and_from_what(whole, tmp_path):
    stages = json.loads(chatwright_("status", whole.folder, "--json").out)
    assert [s["stage"] for s in stages][:2] == ["round-1/sft", "round-1/collect"]
    assert {s["state"] for s in stages} == {"done"}
    assert str(whole.stage("reject")) in next(s for s in stages if s["stage"] == "round-1/ppo")["inputs"]
    shutil.copytree(whole.stage("sft"), tmp_path / "run" / "round-1" / "sft")
    (tmp_path / "run" / "round-1" / "collect").mkdir()
    (tmp_path / "run" / "round-old").mkdir()
    states = [s["state"] for s in json.loads(chatwright_("status", tmp_path / "run", "--json").out)]
    assert states[:3] == ["done", "begun", "waiting"]
    assert "waiting" in chatwright_("status", tmp_path / "run").out


def test_comparisons_are_exported_with_margins(whole, tmp_path):
    result = chatwright_("export", whole.stage("collect") / "comparisons.jsonl", tmp_path / "pairs.jsonl", "--margin", "large")
    rows = read_rows(tmp_path / "pairs.jsonl")
    assert (result.code, result.out) == (0, f"Wrote {len(rows)} comparisons to {tmp_path / 'pairs.jsonl'}\n")
    assert {(row["grade"], row["margin"]) for row in rows} <= {
        ("significantly", 3.0), ("better", 2.0), ("slightly", 1.0), ("negligibly", 0.0)
    }  # fmt: skip


def test_init_writes_a_recipe_that_loads_and_never_over_another(tmp_path, tiny_policy_path, monkeypatch):
    from chatwright.kitchen import base

    monkeypatch.setattr(base, "base_model", lambda *_, **__: tiny_policy_path)
    folder = tmp_path / "mine"
    result = chatwright_("init", folder)
    assert result.code == 0, result.err
    assert result.out == f"Wrote {folder}. Next: chatwright run {folder / 'recipe.yaml'}\n"
    resolved = yaml.safe_load(chatwright_("run", folder / "recipe.yaml", "--dry-run").out)
    assert resolved["model"]["path"] == str(folder / "base")
    assert all(Path(resolved["data"][key]).exists() for key in ("prompts", "validation_prompts", "evaluation_prompts", "showcase"))
    again = chatwright_("init", folder)
    assert again.code == 2
    assert "recipe.yaml exists; choose another folder" in again.said


def test_a_dry_run_prints_the_resolved_settings_and_writes_nothing(project, tmp_path):
    result = chatwright_("run", project, "ppo.beta=0.5", "-o", tmp_path / "run", "--dry-run")
    assert result.code == 0
    resolved = Recipe.model_validate(yaml.safe_load(result.out))
    assert (resolved.ppo.beta, resolved.ppo.optimiser.eps, resolved.sft.window) == (0.5, 1e-5, 128)
    assert not (tmp_path / "run").exists()
    assert chatwright_("quickstart", tmp_path / "run", "--dry-run").out.startswith("name: quickstart\n")
    assert not (tmp_path / "run").exists()


# --- Waiting for people


def test_waiting_for_people_is_exit_code_3_and_the_same_command_goes_on(project, tmp_path, tiny_policy_path):
    judged = project.parent / "judged.jsonl"
    command = ["collect", project, "--variant", tiny_policy_path, "-o", tmp_path / "out", "collect.annotator=file",
               f"collect.judgements={judged}"]  # fmt: skip
    first = chatwright_(*command)
    assert first.code == 3
    pairs = read_rows(project.parent / "judged-pairs.jsonl")
    assert f"{len(pairs)} pairs wait to be judged" in first.said
    assert not (tmp_path / "out" / MANIFEST).exists()
    judgements = [
        {"id": p["id"], "choice": "left", "grade": "better"} | ({"left_safe": True, "right_safe": False} if p["task"] == "safety" else {})
        for p in pairs
    ]
    write_rows(judged, judgements)
    second = chatwright_(*command, "--json")
    assert second.code == 0, second.err
    assert json.loads(second.out)["metrics"]["grades"] == {"better": len(pairs)}


@pytest.mark.parametrize(
    ("grade", "scale", "said"),
    [
        ("better-ish", "four", "judged.jsonl line 2: grade 'better-ish'; expected one of significantly, better, slightly, negligibly"),
        ("better", "three", "judged.jsonl line 2: grade 'better'; expected one of significantly, slightly, negligibly"),
    ],
)
def test_a_grade_outside_the_scale(refused, project, tmp_path, tiny_policy_path, grade, scale, said):
    judged = project.parent / "judged.jsonl"
    command = ["collect", project, "--variant", tiny_policy_path, "-o", tmp_path / "out", "collect.annotator=file",
               f"collect.judgements={judged}", f"collect.grades={scale}"]  # fmt: skip
    assert chatwright_(*command).code == 3
    pairs = read_rows(project.parent / "judged-pairs.jsonl")
    grades = ["slightly", grade] + ["slightly"] * len(pairs)
    write_rows(judged, [{"id": p["id"], "choice": "left", "grade": g} for p, g in zip(pairs, grades, strict=False)])
    assert said in refused(*command)
    assert list((tmp_path / "out" / ".work").glob("pairs-*.jsonl"))  # what was sampled is not lost


# --- Bad input: rows


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{oops", "sft.jsonl line 3: found malformed JSON"),
        ('{"messages": [{"role": "robot", "content": "hi"}]}', "sft.jsonl line 3: unknown role 'robot' in turn 1; expected one of system,"),
        ({"messages": [user("hi"), assistant(" ")]}, "sft.jsonl line 3: empty assistant turn 2; expected text"),
        ({"messages": [user("hi")]}, "sft.jsonl line 3: found user as the last turn; expected assistant"),
        ({"text": "hi"}, "sft.jsonl line 3: found columns text; expected those of one format"),
        ({"id": "d-0", "messages": [user("hi"), assistant("ho")]}, "sft.jsonl line 3: found id 'd-0' again, first at sft.jsonl line 1"),
        ('["hi"]', "sft.jsonl line 3: found list; expected a JSON object"),
    ],
)
def test_a_malformed_dialogue_is_named_by_file_and_line(refused, project, tmp_path, row, said):
    path = project.parent / "sft.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], row if isinstance(row, str) else json.dumps(row), *lines[3:]]) + "\n")
    assert said in refused("sft", project, "-o", tmp_path / "out")


def test_after_a_mended_row_the_same_command_goes_through(project, tmp_path):
    path = project.parent / "sft.jsonl"
    good = path.read_text()
    path.write_text(good + "{oops\n")
    assert "sft.jsonl line 9: found malformed JSON" in chatwright_("sft", project, "-o", tmp_path / "out").said
    path.write_text(good)
    assert chatwright_("sft", project, "-o", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"tag": "nasty", "messages": [user("hi")]},
            "prompts-train.jsonl line 17: prompts-train:17: tag 'nasty'; expected one of helpful,",
        ),
        ({"messages": [user("hi"), assistant("ho")]}, "prompts-train.jsonl line 17: found assistant as the last turn; expected user"),
    ],
)
def test_a_malformed_prompt_is_named_by_file_and_line(refused, project, tmp_path, tiny_policy_path, row, said):
    path = project.parent / "prompts-train.jsonl"
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    assert said in refused("collect", project, "--variant", tiny_policy_path, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"grade": "better-ish"},
            "comparisons.jsonl line 1: grade 'better-ish'; expected one of significantly, better, slightly, negligibly",
        ),
        ({"choice": "both"}, "comparisons.jsonl line 1: helpfulness-"),
        ({"left": {"text": " "}}, "an answer is empty; expected two answers to compare"),
        ({"grade": None}, "no grade; expected one of significantly, better, slightly, negligibly. Add it, or set reward.missing_grade"),
        ({"task": "fun"}, "task 'fun'; expected helpfulness or safety"),
        ({"gard": 1}, "unknown keys ['gard']; expected keys id, task"),
    ],
)
def test_a_malformed_comparison_is_named_by_file_and_line(refused, whole, tmp_path, change, said):
    folder = tmp_path / "collected"
    shutil.copytree(whole.stage("collect"), folder, ignore=shutil.ignore_patterns(MANIFEST))
    first, *rest = read_rows(folder / "comparisons.jsonl")
    write_rows(folder / "comparisons.jsonl", [first | change, *rest])
    command = ["reward", "helpfulness", whole.recipe, "--model", whole.stage("sft"), "--comparisons", folder, "-o", tmp_path / "out"]
    assert said in refused(*command)


def test_a_dialogue_longer_than_the_window(refused, project, tmp_path):
    path = project.parent / "sft.jsonl"
    path.write_text(path.read_text() + json.dumps({"id": "long", "messages": [user("hi"), assistant("eggs " * 200)]}) + "\n")
    told = refused("sft", project, "-o", tmp_path / "out")
    assert "long: " in told
    assert "tokens; expected at most window=128. Raise window, shorten the dialogue, or set too_long=skip" in told
    skipped = chatwright_("sft", project, "-o", tmp_path / "out", "sft.too_long=skip", "--json")
    assert skipped.code == 0, skipped.err
    assert json.loads(skipped.out)["counts"]["too_long"] == 1


def test_a_pair_longer_than_the_window(refused, whole, tmp_path):
    command = ["reward", "helpfulness", whole.recipe, "--model", whole.stage("sft"), "--comparisons", whole.stage("collect")]
    assert "tokens; expected at most reward.window=8. Raise it, or set" in refused(*command, "-o", tmp_path / "out", "reward.window=8")


def test_a_prompt_and_answer_longer_than_the_model_can_read(refused, project, tmp_path, tiny_policy_path):
    command = ["collect", project, "--variant", tiny_policy_path, "-o", tmp_path / "out", "collect.sampling.max_new_tokens=512"]
    assert "exceed the model's window of 256; shorten the prompt or set a smaller sampling.max_new_tokens" in refused(*command)


def test_answers_that_never_end_make_no_pool(refused, whole, tmp_path):
    command = ["reject", whole.recipe, "--policy", whole.stage("sft"), *whole.rewards, "-o", tmp_path / "out"]
    told = refused(*command, "reject.num_prompts=1", "reject.k=1", "reject.sampling.max_new_tokens=1")
    assert "none of 1 prompts has an answer that ended within reject.sampling.max_new_tokens=1; raise it" in told


def test_evaluation_prompts_that_occur_in_training(refused, project, tmp_path):
    shutil.copy(project.parent / "prompts-train.jsonl", project.parent / "prompts-evaluation.jsonl")
    told = refused("run", project, "-o", tmp_path / "run")
    assert "16 evaluation prompts occur in" in told
    assert "expected none: remove them" in told
    assert not (tmp_path / "run" / "round-1").exists()


def test_evaluation_prompts_that_occur_in_the_demonstrations(refused, project, tmp_path):
    path = project.parent / "prompts-evaluation.jsonl"
    path.write_text(path.read_text() + json.dumps({"messages": [user("How many eggs, 3?")]}) + "\n")
    assert "1 evaluation prompts occur in" in refused("run", project, "-o", tmp_path / "run")


def test_no_prompts_of_a_kind_that_is_asked_for(refused, project, tmp_path, tiny_policy_path):
    path = project.parent / "prompts-train.jsonl"
    write_rows(path, [row for row in read_rows(path) if row["tag"] != "adversarial"])
    told = refused("collect", project, "--variant", tiny_policy_path, "-o", tmp_path / "out")
    assert "no adversarial prompts, but 8 safety pairs are to be made of them" in told


# --- Bad input: models and templates


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template; set model.chat_template to one of plain, chatml, llama-2"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "does not end an answer with a stop token"),
        ("{% for m in messages %}{{ m['content'] }}{{ messages | length }}{{ eos_token }}{% endfor %}", "rewrites earlier turns"),
    ],
)
def test_a_template_without_assistant_marks(refused, project, tmp_path, tiny_policy_path, template, said):
    model = tmp_path / "model"
    shutil.copytree(tiny_policy_path, model)
    (model / "chat_template.jinja").unlink()
    if template:
        (model / "chat_template.jinja").write_text(template)
    told = refused("sft", project, f"model.path={model}", "-o", tmp_path / "out", inputs=(model,))
    assert said in told
    assert "set model.chat_template to one of plain, chatml, llama-2" in told


@pytest.mark.parametrize("verb", ["reject", "ppo"])
@pytest.mark.parametrize("which", ["helpfulness", "safety"])
def test_a_reward_model_with_another_tokenizer(refused, whole, tmp_path, chatml_tokenizer, verb, which):
    other = tmp_path / "other"
    shutil.copytree(whole.stage(f"reward-{which}"), other, ignore=shutil.ignore_patterns(MANIFEST, "chat_template.jinja"))
    chatml_tokenizer.save_pretrained(other)
    rewards = {"helpfulness": whole.stage("reward-helpfulness"), "safety": whole.stage("reward-safety")} | {which: other}
    command = [verb, whole.recipe, "--policy", whole.stage("sft"), *(x for k, v in rewards.items() for x in (f"--{k}", v))]
    told = refused(*command, "-o", tmp_path / "out")
    assert f"reward model {other} has another tokenizer or chat template than the policy" in told
    assert "train it from the same base model" in told


def test_a_model_that_is_not_there(refused, project, tmp_path):
    told = refused("sft", project, "model.path=/nowhere/model", "-o", tmp_path / "out")
    assert "/nowhere/model: cannot be loaded as a tokenizer" in told
    assert "expected a folder or hub name that transformers loads" in told


def test_truncated_weights(refused, project, tmp_path, tiny_policy_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_policy_path, model)
    os.truncate(model / "model.safetensors", 1000)
    assert f"{model}: the weights are damaged" in refused("sft", project, f"model.path={model}", "-o", tmp_path / "out", inputs=(model,))


def test_a_policy_in_place_of_a_reward_model(refused, whole, tmp_path):
    rewards = ["--helpfulness", whole.stage("sft"), "--safety", whole.stage("reward-safety")]
    told = refused("ppo", whole.recipe, "--policy", whole.stage("sft"), *rewards, "-o", tmp_path / "out")
    assert "so it is no reward model of chatwright; train one with: chatwright reward" in told


def test_a_gpu_that_is_not_there(refused, project, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    told = refused("sft", project, "model.device=cuda", "-o", tmp_path / "out", code=2)
    assert "model.device is cuda, but torch finds no GPU here; set model.device=auto" in told


# --- Bad input: NaN


def test_nan_weights_stop_fine_tuning_before_a_step(refused, project, tmp_path, tiny_policy_path):
    model = damaged(tiny_policy_path, tmp_path / "model")
    told = refused("sft", project, f"model.path={model}", "-o", tmp_path / "out", inputs=(model,))
    assert "loss nan, gradient norm nan on the batch [d-" in told
    assert "weights are as before this step. Look at these rows, or lower the learning rate, then run the same command" in told
    assert not list((tmp_path / "out" / ".work").glob("checkpoint-*"))


def test_nan_weights_stop_sampling(refused, project, tmp_path, tiny_policy_path):
    model = damaged(tiny_policy_path, tmp_path / "model")
    told = refused("collect", project, "--variant", model, "-o", tmp_path / "out")
    assert "the policy's logits are NaN while sampling; the model is damaged: go back to an earlier checkpoint" in told


def test_nan_weights_stop_the_training_of_a_reward_model(refused, whole, tmp_path):
    model = damaged(whole.stage("sft"), tmp_path / "model")
    command = ["reward", "safety", whole.recipe, "--model", model, "--comparisons", whole.stage("collect"), "-o", tmp_path / "out"]
    assert "loss nan, gradient norm nan on the batch [" in refused(*command)


@pytest.mark.parametrize("verb", ["reject", "ppo", "evaluate"])
def test_a_reward_model_that_says_nan_is_never_a_score(refused, whole, tmp_path, verb):
    bad = damaged(whole.stage("reward-helpfulness"), tmp_path / "bad", AutoModelForSequenceClassification)
    policy = f"sft={whole.stage('sft')}" if verb == "evaluate" else whole.stage("sft")
    command = [verb, whole.recipe, "--policy", policy, "--helpfulness", bad, "--safety", whole.stage("reward-safety")]
    told = refused(*command, "-o", tmp_path / "out")
    assert "a reward model's score is NaN or infinite; its weights are damaged" in told


# --- Bad input: settings


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["sft.epoch=3"], "unknown setting 'sft.epoch'; did you mean 'sft.epochs'?"),
        (["sft.epochs=two"], "setting sft.epochs = 'two': expected a valid integer"),
        (["sft.epochs"], "'sft.epochs' is no setting; expected key=value"),
        (["trackers=[mlflow]"], 'install it with: pip install "chatwright[mlflow]"'),
    ],
)
def test_a_wrong_setting_is_exit_code_2(refused, project, tmp_path, args, said):
    if "mlflow" in args[0] and "mlflow" in sys.modules:
        pytest.skip("mlflow is installed here")
    assert said in refused("sft", project, *args, "-o", tmp_path / "out", code=2)


def test_a_recipe_that_is_not_there(refused, tmp_path):
    assert "expected a recipe file (write one with: chatwright init)" in refused("run", tmp_path / "recipe.yaml", code=2)


def test_simulated_annotators_without_a_world(refused, project, tmp_path):
    told = refused("run", project, "world=null", "-o", tmp_path / "run", code=2)
    assert "collect.annotator is simulated, but the recipe names no world; set world, or annotator=file" in told


def test_a_baseline_that_is_no_policy_is_told_before_the_training(refused, project, tmp_path):
    told = refused("run", project, "evaluate.baseline=sfd", "-o", tmp_path / "run", code=2)
    assert "evaluate.baseline is 'sfd'; expected one of base, sft, rejection, ppo" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["reward", "fun", "RECIPE", "--model", "m", "--comparisons", "c"], "task 'fun'; expected helpfulness or safety"),
        (["evaluate", "RECIPE", "--policy", "sft"], "expected NAME=PATH each"),
    ],
)
def test_a_wrong_argument_is_exit_code_2(refused, project, tmp_path, command, said):
    command = [project if word == "RECIPE" else word for word in command]
    assert said in refused(*command, "-o", tmp_path / "out", code=2)


def test_one_reward_model_of_two(refused, whole, tmp_path):
    command = ["evaluate", whole.recipe, "--policy", f"sft={whole.stage('sft')}", "--safety", whole.stage("reward-safety")]
    assert "one reward model given; expected both or none" in refused(*command, "-o", tmp_path / "out")


def test_three_variants(refused, project, tmp_path, tiny_policy_path):
    variants = ["--variant", tiny_policy_path] * 3
    assert "3 variants; expected one or two checkpoints" in refused("collect", project, *variants, "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("verb", "said"),
    [("report", "has no report.json; expected the folder of a finished run"), ("status", "holds no round; expected the folder of a run")],
)
def test_a_folder_that_is_no_run(refused, tmp_path, verb, said):
    assert said in refused(verb, tmp_path, code=2)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["COMPARISONS", "OUT.jsonl", "--margin", "huge"], 2, "--margin huge; expected one of off, small, large"),
        (["COMPARISONS", "OUT.csv"], 1, "suffix '.csv'; expected .jsonl or .parquet"),
        (["nowhere.jsonl", "OUT.jsonl"], 1, "nowhere.jsonl: no such file or folder"),
    ],
)
def test_an_export_that_cannot_be(refused, whole, tmp_path, args, code, said):
    words = {"COMPARISONS": whole.stage("collect") / "comparisons.jsonl", "OUT.jsonl": tmp_path / "x.jsonl", "OUT.csv": tmp_path / "x.csv"}
    assert said in refused("export", *(words.get(a, a) for a in args), code=code)
    assert not list(tmp_path.glob("x.*"))


# --- Folders on disk


def test_a_folder_that_does_not_match_its_manifest_is_no_input(refused, whole, tmp_path):
    folder = tmp_path / "collected"
    shutil.copytree(whole.stage("collect"), folder)
    write_rows(folder / "comparisons.jsonl", read_rows(folder / "comparisons.jsonl")[1:])
    command = ["reward", "safety", whole.recipe, "--model", whole.stage("sft"), "--comparisons", folder, "-o", tmp_path / "out"]
    assert f"{folder}: comparisons.jsonl does not match its manifest (changed or truncated); restore it or make" in refused(*command)


def test_a_folder_without_held_out_pairs_was_not_made_by_collect(refused, whole, tmp_path):
    (tmp_path / "pairs").mkdir()
    shutil.copy(whole.stage("collect") / "comparisons.jsonl", tmp_path / "pairs")
    command = ["reward", "safety", whole.recipe, "--model", whole.stage("sft"), "--comparisons", tmp_path / "pairs", "-o", tmp_path / "out"]
    assert "has no test.jsonl; expected a folder made by: chatwright collect" in refused(*command)


def test_somebody_elses_folder_is_left_alone(refused, project, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    told = refused("sft", project, "-o", tmp_path / "out", inputs=(tmp_path / "out",))
    assert "is not empty and was not begun by chatwright; choose another output folder" in told


@pytest.fixture
def stopped(project, tmp_path, monkeypatch):
    """Fine-tuning that was stopped after its last checkpoint: the command, and the checkpoint."""
    command = ["sft", project, "-o", tmp_path / "out"]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(language_model.LanguageModel, "save", stop)
        result = chatwright_(*command)
    assert (result.code, result.said) == (1, "chatwright: stopped; run the same command to go on")
    return command, next((tmp_path / "out" / ".work").glob("checkpoint-*.pt"))


def test_the_same_command_goes_on_after_a_stop_and_ends_the_same(stopped, project, tmp_path):
    command, _ = stopped
    assert chatwright_(*command).code == 0
    assert chatwright_("sft", project, "-o", tmp_path / "undisturbed").code == 0
    assert read_manifest(tmp_path / "out").digest == read_manifest(tmp_path / "undisturbed").digest


def test_other_settings_do_not_go_on_from_unfinished_work(stopped):
    command, checkpoint = stopped
    result = chatwright_(*command, "seed=3")
    assert result.code == 1
    assert "holds unfinished work of another request: seed was 0, now 3; ask for the same again or delete it" in result.said
    assert checkpoint.exists()


def test_a_truncated_checkpoint(refused, stopped):
    command, checkpoint = stopped
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    told = refused(*command)
    assert f"{checkpoint} is damaged (truncated or changed); delete it and run the same command to begin this stage again" in told
    checkpoint.unlink()
    assert chatwright_(*command).code == 0


@pytest.mark.parametrize(("kilobytes", "when"), [(64, "at the checkpoint"), (440, "at the weights")])
def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(refused, project, tmp_path, kilobytes, when):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a tiny file system needs root and mount")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tiny file system could not be mounted: {mounted.stderr.strip()}")
    try:
        told = refused("sft", project, "-o", disk / "out", output=disk / "out")
        assert "No space left on device" in told
        assert "make room or choose another output, then run the same command to go on" in told
        assert not list(disk.rglob("*.tmp"))
        assert bool(list(disk.rglob("checkpoint-*.pt"))) == (when == "at the weights")
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert chatwright_("sft", project, "-o", disk / "out").code == 0
        read_manifest(disk / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)

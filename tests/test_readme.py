"""Every command of the README is run, in its order, in one folder; training is on a tiny model instead of the kitchen's and SmolLM2."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tiny_project import write_project

from chatwright import cli

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines() if line.strip()]


def run(arguments, monkeypatch) -> int:
    monkeypatch.setattr("sys.argv", ["chatwright", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_readme_has_commands_of_every_kind():
    assert {command[0] for command in COMMANDS} == {"make", "pip", "chatwright"}


def test_every_chatwright_command_of_the_readme_works_in_its_order(tmp_path, tiny_policy_path, monkeypatch, capsys):
    recipe = yaml.safe_load(write_project(tmp_path / "project", tiny_policy_path).read_text())

    def tiny(folder, *_, **__):
        write_project(Path(folder), tiny_policy_path)
        (Path(folder) / "recipe.yaml").unlink()

    def bundled(name="quickstart"):
        tuned = recipe | {"ppo": recipe["ppo"] | {"iterations": 1}}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tuned))
        return path

    monkeypatch.setattr("chatwright.kitchen.base.base_model", lambda **_: tiny_policy_path)
    monkeypatch.setattr("chatwright.kitchen.world.write_world", lambda folder: tiny(Path(folder).parent))
    monkeypatch.setattr("chatwright.smollm2.prepare", tiny)
    monkeypatch.setattr(cli, "_bundled_recipe", bundled)
    monkeypatch.chdir(tmp_path)
    assert run(["quickstart", "runs/quickstart"], monkeypatch) == 0, "what make demo runs"
    for command in COMMANDS:
        if command[0] == "chatwright":
            assert run(command[1:], monkeypatch) == 0, (command, capsys.readouterr().err)
            if command[1] == "run":
                shutil.rmtree("runs/tiny", ignore_errors=True)  # the next command has other settings


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "make"], ids=" ".join)
def test_every_make_target_of_the_readme_exists(command):
    dry = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    assert {"demo": "chatwright quickstart", "test": "pytest"}[command[1]] in dry.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "pip"], ids=" ".join)
def test_every_extra_of_the_readme_exists(command):
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in re.findall(r"\[(\w+)\]", " ".join(command)))

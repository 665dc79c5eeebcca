import multiprocessing
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from tiny_round import contents, rows_of_metrics, run_in_child, run_tiny_round

from chatwright import artifact, rounds
from chatwright.stages import collect, evaluate, reject, sft
from chatwright.training import ppo, preference, supervised


def check_same(run, finished_run):
    """Bit for bit the uninterrupted run: weights, pools, answers; and each step's metrics once, with the same numbers."""
    ours, expected = contents(run), contents(finished_run)
    assert ours.keys() == expected.keys()
    assert [name for name in ours if ours[name] != expected[name]] == []
    assert rows_of_metrics(run) == rows_of_metrics(finished_run)


def test_a_finished_round_has_weights_of_every_stage_and_each_step_once(finished_run):
    names = contents(finished_run)
    for stage in ("sft", "reward-helpfulness", "reward-safety", "reject", "ppo"):
        assert f"round-1/{stage}/model.safetensors" in names
    assert not [name for name in names if ".work" in name]
    for stage, rows in rows_of_metrics(finished_run).items():
        steps = [(row["phase"], row["step"]) for row in rows]
        assert len(steps) == len(set(steps)), stage
        trained = [step for phase, step in steps if phase == "train"]
        assert trained == list(range(1, len(trained) + 1)), stage


def test_the_same_round_elsewhere_ends_in_the_same_bits(recipe, finished_run, tmp_path):
    run_tiny_round(recipe, tmp_path / "run")
    check_same(tmp_path / "run", finished_run)


class PulledPlug(BaseException):
    """Not an Exception, as a kill is none."""


# Each in its turn, at the call of that number: before the first checkpoint, between checkpoints, right after one, between chunks.
PLUGS = [
    (supervised, "optimiser_step", 2),
    (supervised, "optimiser_step", 3),
    (supervised, "_samples", 2),
    (collect, "_sample_chunk", 2),
    (collect, "_test_prompts", 1),
    (preference, "optimiser_step", 1),
    (preference, "optimiser_step", 5),
    (preference, "save_checkpoint", 3),
    (reject, "best_answers", 2),
    (supervised, "optimiser_step", 3),
    (ppo, "take_step", 2),
    (ppo, "take_step", 3),
    (ppo, "take_step", 21),
    (ppo, "whiten", 2),
    (evaluate, "_answer_all", 2),
    (rounds, "write_report", 1),
]


def stopping(real, number):
    """The function, but its call of that number pulls the plug."""
    calls = []

    def pull(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise PulledPlug
        return real(*args, **kwargs)

    return pull


def test_a_round_stopped_in_every_stage_ends_in_the_same_bits(recipe, finished_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    for module, name, number in PLUGS:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopping(getattr(module, name), number))
            with pytest.raises(PulledPlug):
                run_tiny_round(recipe, run)
    run_tiny_round(recipe, run)
    check_same(run, finished_run)


def test_a_kill_in_the_middle_of_a_write_leaves_nothing_in_the_sealed_folder(recipe, finished, tmp_path, monkeypatch):
    run = partial(sft.run, recipe.sft, sft.SftInputs(recipe.model.path, recipe.data.sft), tmp_path / "sft", model=recipe.model, seed=11)
    replace = os.replace

    def until_the_manifest(source, target):
        if Path(target).name == "manifest.json":
            raise PulledPlug
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(artifact.os, "replace", until_the_manifest)
        with pytest.raises(PulledPlug):
            run()
    assert (tmp_path / "sft" / "manifest.json.tmp").exists()
    (tmp_path / "sft" / ".samples.jsonl.1a2b3c4d.part").write_text("half a ro")
    run()
    manifest = artifact.read_manifest(tmp_path / "sft")
    assert manifest.files.keys() == artifact.read_manifest(finished / "sft").files.keys()
    assert {p.name for p in (tmp_path / "sft").iterdir()} == manifest.files.keys() | {"manifest.json"}


def num_rows(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_round_killed_at_random_moments_ends_in_the_same_bits(recipe, finished_run, tmp_path):
    """SIGKILL, soon after a stage has written so many rows of metrics; the next process goes on."""
    run = tmp_path / "run"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chatwright.rounds", "transformers.models.llama.modeling_llama"])  # imported once, for every child
    rng = random.Random()
    targets = [("sft", 1), ("sft", 5), ("reward-helpfulness", 2), ("reward-safety", 1), ("reject", 2), ("ppo", 1), ("ppo", 4), ("ppo", 6)]
    num_killed = 0
    for stage, rows in [*targets, (None, 0)]:
        child = context.Process(target=run_in_child, args=(recipe.model_dump_json(), str(run)))
        child.start()
        if stage is not None:
            metrics = run / "round-1" / stage / "metrics.jsonl"
            while num_rows(metrics) < rows and child.is_alive():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            child.kill()
        child.join()
        num_killed += child.exitcode == -signal.SIGKILL
    assert num_killed == len(targets)
    assert child.exitcode == 0
    check_same(run, finished_run)

"""The order of a round; nothing numerical happens here.

base -> sft -> collect -> reward models -> reject -> ppo -> evaluate -> report.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatwright.annotators.base import Annotators, Gold
from chatwright.artifact import MANIFEST, Manifest, read_manifest, write_atomic
from chatwright.errors import SettingsError
from chatwright.recipe import Recipe
from chatwright.report.page import write_page
from chatwright.sources import read_prompts
from chatwright.stages import collect, evaluate, ppo, reject, reward, sft

STAGES = ("sft", "collect", "reward-helpfulness", "reward-safety", "reject", "ppo", "evaluate")
POLICIES = ("base", "sft", "rejection", "ppo")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a run's stages lie: RUN/round-N/STAGE."""

    run: Path
    number: int = 1

    def stage(self, name: str) -> Path:
        return self.run / f"round-{self.number}" / name


def run_round(recipe: Recipe, run: Path, *, annotators: Annotators, gold: Gold | None) -> dict[str, Any]:
    """One round, stage by stage; what is finished is not done again. Returns report.json's content.

    Raises what the stages raise; the same call then goes on where it stopped.
    """
    if recipe.evaluate.baseline not in POLICIES:  # said now, not after hours of training
        raise SettingsError(f"evaluate.baseline is {recipe.evaluate.baseline!r}; expected one of {', '.join(POLICIES)}")
    held_out = read_prompts(recipe.data.evaluation_prompts)
    evaluate.check_held_out(held_out, [recipe.data.prompts, recipe.data.validation_prompts], recipe.data.sft)
    at = Layout(run).stage
    model, data, seed = recipe.model, recipe.data, recipe.seed
    base = model.path
    sft.run(recipe.sft, sft.SftInputs(base, data.sft), at("sft"), model=model, seed=seed, trackers=recipe.trackers)
    collect.run(
        recipe.collect, collect.CollectInputs([at("sft")], data.prompts), at("collect"), annotators=annotators, model=model, seed=seed
    )
    reward_inputs = reward.RewardInputs(at("sft"), [at("collect")], data.sft, data.comparisons)
    reward.run("helpfulness", recipe.reward, reward_inputs, at("reward-helpfulness"), model=model, seed=seed, trackers=recipe.trackers)
    reward.run("safety", recipe.reward, reward_inputs, at("reward-safety"), model=model, seed=seed, trackers=recipe.trackers)
    reject_inputs = reject.RejectInputs(at("sft"), base, at("reward-helpfulness"), at("reward-safety"), data.prompts, data.sft)
    reject.run(recipe.reject, reject_inputs, at("reject"), model=model, seed=seed, trackers=recipe.trackers)
    ppo_inputs = ppo.PpoInputs(at("reject"), at("reward-helpfulness"), at("reward-safety"), data.prompts, data.validation_prompts)
    ppo.run(recipe.ppo, ppo_inputs, at("ppo"), model=model, seed=seed, trackers=recipe.trackers)
    policies: dict[str, str | Path] = dict(zip(POLICIES, (base, at("sft"), at("reject"), at("ppo")), strict=True))
    evaluate_inputs = evaluate.EvaluateInputs(
        policies, data.evaluation_prompts, at("reward-helpfulness"), at("reward-safety"), at("collect"), data.showcase,
        training=[data.prompts, data.validation_prompts],
    )  # fmt: skip
    evaluate.run(recipe.evaluate, evaluate_inputs, at("evaluate"), gold=gold, model=model, seed=seed, threshold=recipe.ppo.threshold)
    return write_report(recipe, run)


def write_report(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Gather the sealed stages of a finished round into RUN/report.json and RUN/report.html; returns the former's content."""
    at = Layout(run).stage
    manifests: dict[str, Manifest] = {name: read_manifest(at(name), verify=False) for name in STAGES}
    evaluation = json.loads((at("evaluate") / "evaluation.json").read_text(encoding="utf-8"))
    report = {
        "schema": 1,
        "name": recipe.name,
        "seed": recipe.seed,
        "seconds": {name: m.seconds for name, m in manifests.items()},
        **evaluation,
    }
    write_atomic(run / "report.json", json.dumps(report, indent=1) + "\n")
    write_atomic(run / "samples.json", (at("evaluate") / "samples.json").read_bytes())
    write_page(run)
    return report


def run_status(run: Path) -> list[dict[str, Any]]:
    """Each stage of each round: state (done, begun, waiting), seconds, and the folders it was made from."""
    rounds = sorted((p for p in run.glob("round-*") if p.name[6:].isdecimal()), key=lambda p: int(p.name[6:]))
    if not rounds:
        raise SettingsError(f"{run} holds no round; expected the folder of a run")
    rows = []
    for folder in rounds:
        for name in STAGES:
            stage = folder / name
            manifest = read_manifest(stage, verify=False) if (stage / MANIFEST).exists() else None
            state = "done" if manifest else "begun" if stage.exists() else "waiting"
            inputs = [str(i["path"]) for i in manifest.inputs.values()] if manifest else []
            rows.append(
                {"stage": f"{folder.name}/{name}", "state": state, "seconds": manifest.seconds if manifest else None, "inputs": inputs}
            )
    return rows

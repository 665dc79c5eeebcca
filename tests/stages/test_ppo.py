import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import CPU, make_model

from chatwright.artifact import read_manifest
from chatwright.errors import DataError, ModelError
from chatwright.models.reward_model import new_reward_model
from chatwright.recipe import PpoSettings
from chatwright.rollout.base import Response
from chatwright.stages import ppo
from chatwright.training.metrics import read_metrics
from chatwright.training.ppo import Scores

LOOKS = {"iterations": 6, "validate_every": 1, "beta": 0.0, "no_end": "keep"}


def run(recipe, finished, output, model=None, **changes):
    settings = PpoSettings.model_validate(recipe.ppo.model_dump() | changes.pop("settings", {}))
    inputs = {
        "policy": finished / "reject", "helpfulness": finished / "reward-helpfulness", "safety": finished / "reward-safety",
        "prompts": recipe.data.prompts, "validation_prompts": recipe.data.validation_prompts,
    }  # fmt: skip
    return ppo.run(settings, ppo.PpoInputs(**(inputs | changes)), output, model=model or recipe.model, seed=11)


def script_held_out_scores(monkeypatch, values):
    """The score of every held-out answer is the next of the values at each look; returns the policy's weights at each look."""
    values, seen = iter(values), []
    look, score = ppo._look, ppo._score

    def scripted(models, rows, prompts, settings):
        found = torch.full((len(rows),), next(values))
        return Scores(found, found, found, torch.zeros(len(rows), dtype=torch.bool))

    def looking(models, *args):
        seen.append({name: p.detach().clone() for name, p in models.policy.model.named_parameters()})
        ppo._score = scripted
        try:
            return look(models, *args)
        finally:
            ppo._score = score

    monkeypatch.setattr(ppo, "_score", score)  # put back whatever happens
    monkeypatch.setattr(ppo, "_look", looking)
    return seen


def saved_is(output, weights):
    saved = load_file(output / "model.safetensors")
    return all(torch.equal(saved[name], weights[name]) for name in saved)


def test_the_best_policy_is_kept_and_patience_ends_the_run(recipe, finished, tmp_path, monkeypatch):
    seen = script_held_out_scores(monkeypatch, [1.0, 3.0, 4.0, 2.0, 3.5])
    manifest = run(recipe, finished, tmp_path / "ppo", settings=LOOKS | {"patience": 2})
    # The first look is the zero and its deviation of none counts as 1: rewards 0, 2, 3, 1, 2.5
    rows = [row for row in read_metrics(tmp_path / "ppo" / "metrics.jsonl") if row["phase"] == "validation"]
    assert [row["reward"] for row in rows] == pytest.approx([0.0, 2.0, 3.0, 1.0, 2.5])
    assert [row["kept"] for row in rows] == [True, True, True, False, False]
    assert manifest.metrics == {"stopped": "held-out reward has not risen for 2 looks", "best_iteration": 2, "held_out_reward": 3.0}
    assert manifest.counts == {"iterations": 4, "rollouts": 32}
    assert saved_is(tmp_path / "ppo", seen[2])
    assert not saved_is(tmp_path / "ppo", seen[4])


def test_if_nothing_beats_the_start_the_start_is_what_is_sealed(recipe, finished, tmp_path, monkeypatch):
    seen = script_held_out_scores(monkeypatch, [1.0, 0.5, 0.0])
    manifest = run(recipe, finished, tmp_path / "ppo", settings=LOOKS | {"iterations": 2})
    assert manifest.metrics["best_iteration"] == 0
    assert saved_is(tmp_path / "ppo", seen[0])


def test_a_kl_over_the_limit_ends_the_run(recipe, finished, tmp_path):
    rates = {"optimiser": {"learning_rate": 0.1, "schedule": "constant"}}
    manifest = run(recipe, finished, tmp_path / "ppo", settings=rates | {"max_kl": 0.5, "iterations": 6})
    rows = [row for row in read_metrics(tmp_path / "ppo" / "metrics.jsonl") if row["phase"] == "train"]
    assert manifest.metrics["stopped"].endswith("passed max_kl 0.5")
    assert len(rows) == manifest.counts["iterations"] < 6
    assert rows[-1]["kl"] > 0.5
    assert all(row["kl"] <= 0.5 for row in rows[:-1])


def test_each_iteration_reports_what_to_watch(finished):
    rows = read_metrics(finished / "ppo" / "metrics.jsonl")
    trained = [row for row in rows if row["phase"] == "train"]
    wanted = {
        "reward", "kl", "kl_k3", "response_tokens", "cut_off_share", "clip_fraction", "value_clip_fraction", "approx_kl", "log_ratio_max",
        "entropy", "explained_variance", "policy_loss", "value_loss", "policy_grad_norm", "value_grad_norm", "safety_gate_share",
    }  # fmt: skip
    assert all(wanted <= row.keys() for row in trained)
    assert [row["step"] for row in rows if row["phase"] == "validation"] == [0, 2, 4, 6]
    assert trained[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the policy is its reference before the first step
    assert trained[-1]["kl"] != 0.0


def test_cut_off_answers_are_counted_and_get_no_end(recipe, finished, tmp_path, monkeypatch):
    scored = spy_on_scores(monkeypatch)
    sampling = recipe.ppo.sampling.model_dump() | {"max_new_tokens": 1}
    run(recipe, finished, tmp_path / "ppo", settings={"sampling": sampling, "iterations": 1})
    trained, held_out = (
        next(row for row in read_metrics(tmp_path / "ppo" / "metrics.jsonl") if row["phase"] == phase) for phase in ("train", "validation")
    )
    assert all(sum(row.response_mask) == 1 for row in scored)
    end = {False: 0, True: 0}
    for row in scored[4:12]:  # the first look at 4 held-out prompts, then the 8 rollouts
        end[row.ids[-1] == 2] += 1
    assert trained["cut_off_share"] == end[False] / 8 > 0
    assert held_out["cut_off_share"] > 0


def spy_on_scores(monkeypatch):
    scored = []
    real = ppo.score_rollouts
    monkeypatch.setattr(ppo, "score_rollouts", lambda h, s, rows, *args, **kwargs: scored.extend(rows) or real(h, s, rows, *args, **kwargs))
    return scored


def test_the_sampled_ids_reach_reward_models_and_update_untouched(recipe, finished, tmp_path, monkeypatch, tokenizer):
    odd = (*tokenizer.convert_tokens_to_ids(["w", "a", "t", "e", "r"]), tokenizer.eos_token_id)
    assert tuple(tokenizer(tokenizer.decode(odd[:-1]))["input_ids"]) != odd[:-1]  # as text it would become other tokens

    class Odd:
        def __init__(self, policy):
            pass

        def sample(self, prompts, settings, *, seed, advance=None):
            return [Response(odd[i % 3 :], (0.0,) * len(odd[i % 3 :]), True) for i in range(len(prompts))]

    monkeypatch.setattr(ppo, "TorchRollouts", Odd)
    scored, updated = spy_on_scores(monkeypatch), []
    real = ppo.update

    def spy(policy, critic, a, b, mini_batches, *args, **kwargs):
        for e in (e for mini_batch in mini_batches for e in mini_batch):
            updated.extend(tuple(ids[keep].tolist()) for ids, keep in zip(e.batch.ids, e.batch.response, strict=True))
        return real(policy, critic, a, b, mini_batches, *args, **kwargs)

    monkeypatch.setattr(ppo, "update", spy)
    run(recipe, finished, tmp_path / "ppo", settings={"iterations": 1})
    answers = [tuple(i for i, marked in zip(row.ids, row.response_mask, strict=True) if marked) for row in scored]
    assert set(answers) == set(updated) == {odd, odd[1:], odd[2:]}


def test_the_critic_starts_as_the_helpfulness_model_and_reads_its_raw_output(recipe, finished):
    inputs = ppo.PpoInputs(
        finished / "reject",
        finished / "reward-helpfulness",
        finished / "reward-safety",
        recipe.data.prompts,
        recipe.data.validation_prompts,
    )
    models = ppo._load(inputs, recipe.model)
    ids = torch.tensor([[1, 40, 41, 42]])
    everything = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        expected = models.helpfulness.scores(ids, everything).item() + models.helpfulness.bias
        assert models.critic.values(ids, everything)[0, -1].item() == pytest.approx(expected, abs=1e-5)
    assert models.helpfulness.bias != 0
    assert models.critic.model is not models.helpfulness.model
    assert not any(p.requires_grad for p in models.reference.model.parameters())
    assert not any(m.training for part in (models.policy, models.reference, models.critic) for m in part.model.modules())


@pytest.mark.parametrize("which", ["helpfulness", "safety"])
def test_a_reward_model_with_another_tokenizer_is_refused(recipe, finished, tmp_path, chatml_tokenizer, which):
    other = new_reward_model(make_model(tmp_path / "other", chatml_tokenizer), CPU, seed=0)
    other.bias = 0.0
    other.save(tmp_path / "rm")
    with pytest.raises(ModelError, match="another tokenizer"):
        run(recipe, finished, tmp_path / "ppo", **{which: tmp_path / "rm"})


def test_validation_prompts_that_are_training_prompts_are_refused(recipe, finished, tmp_path):
    with pytest.raises(DataError, match="14 validation prompts are training prompts too"):
        run(recipe, finished, tmp_path / "ppo", validation_prompts=recipe.data.prompts)


def test_with_adapters_ppo_saves_a_merged_model_and_resumes_to_the_same_bits(recipe, finished, tmp_path, monkeypatch):
    model = recipe.model.model_validate(recipe.model.model_dump() | {"lora": {"rank": 4, "alpha": 8}, "gradient_checkpointing": True})
    run(recipe, finished, tmp_path / "whole", model)
    calls = [0]
    real = ppo.update

    def pull(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ppo, "update", pull)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, finished, tmp_path / "resumed", model)
    manifest = run(recipe, finished, tmp_path / "resumed", model)
    whole, resumed, start = (load_file(f / "model.safetensors") for f in (tmp_path / "whole", tmp_path / "resumed", finished / "reject"))
    assert whole.keys() == resumed.keys() == start.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert manifest.metrics["best_iteration"] == read_manifest(tmp_path / "whole").metrics["best_iteration"]
    changed = {name for name in whole if not torch.equal(whole[name], start[name])}
    assert bool(changed) == (manifest.metrics["best_iteration"] > 0)
    assert all("proj" in name for name in changed)  # embeddings and norms stay as they were


def test_a_round_leaves_its_summary(finished):
    summary = json.loads((finished / "ppo" / "ppo.json").read_text())
    assert summary == read_manifest(finished / "ppo").metrics
    assert summary["stopped"] == "all iterations done"

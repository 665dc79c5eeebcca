import math

import pytest
import torch
from pydantic import ValidationError
from tiny import CPU, make_model

from chatwright.dialogue import Tokens
from chatwright.errors import NonFiniteError
from chatwright.models.language_model import load_language_model, trainable_state
from chatwright.models.reward_model import new_reward_model
from chatwright.recipe import LoraSettings, OptimiserSettings, PpoSettings, SamplingSettings
from chatwright.training import ppo
from chatwright.training.batches import prompt_and_response
from chatwright.training.optimiser import make_optimiser
from chatwright.training.ppo import (
    Scores,
    estimate_advantages,
    gather_experience,
    mean_kl,
    rollout_metrics,
    score_rollouts,
    update,
)  # fmt: skip

LORA = CPU.model_copy(update={"lora": LoraSettings(rank=4, alpha=8)})
SETTINGS = PpoSettings(
    rollouts=6, mini_batch=6, sampling=SamplingSettings(temperature=0.8, max_new_tokens=16), beta=0.3,
    optimiser=OptimiserSettings(learning_rate=1e-3, schedule="constant"),
    critic_optimiser=OptimiserSettings(learning_rate=1e-3, schedule="constant"),
)  # fmt: skip
ROLLOUTS = [
    prompt_and_response([1, 40, 41, 42], [50, 51, 2]),
    prompt_and_response([1, 43], [52, 53, 54, 55, 56, 57]),
    prompt_and_response([1, 44, 45, 46, 47, 48], [58]),
    prompt_and_response([1, 49], [59, 60, 2]),
    prompt_and_response([1, 61, 62], [63, 64, 65, 66]),
    prompt_and_response([1, 67, 68], [69, 70]),
]
FINISHED = [True, False, True, True, False, True]
ORDER = [3, 0, 5, 1, 4, 2]
NAMES = [f"prompt-{i}" for i in range(6)]


def scores_of(values):
    values = torch.tensor(values)
    return Scores(values, values, values, torch.zeros(len(values), dtype=torch.bool))


SCORES = scores_of([2.0, -1.0, 0.5, 4.0, 0.0, 1.5])


def settings_with(**changes):
    return PpoSettings.model_validate(SETTINGS.model_dump() | changes)


def nudged(language_model):
    """The same model, moved a little away from where it was, so that it differs from its reference."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in language_model.model.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape))
    return language_model


def prepare(path, settings=SETTINGS, model=CPU, scores=SCORES):
    policy, critic = nudged(load_language_model(path, model, train=True)), new_reward_model(path, model, seed=0)
    reference = None if model.lora else load_language_model(path, model)
    mini_batches = gather_experience(policy, reference, critic, ROLLOUTS, ORDER, settings)
    estimate_advantages(mini_batches, scores, FINISHED, settings)
    return policy, critic, mini_batches


def run_update(policy, critic, mini_batches, settings=SETTINGS, iteration=0):
    optimisers = make_optimiser(policy.model, settings.optimiser), make_optimiser(critic.model, settings.critic_optimiser)
    return update(policy, critic, *optimisers, mini_batches, settings, iteration=iteration, ids=NAMES)


def weights(model):
    return [p.detach().clone() for p in model.model.parameters()]


def same(model, before):
    return all(torch.equal(a, b) for a, b in zip(model.model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "model", [CPU, LORA, CPU.model_copy(update={"gradient_checkpointing": True})], ids=["full", "lora", "checkpointing"]
)
@pytest.mark.parametrize("budget", [8, 24, 10_000])
def test_on_the_first_mini_batch_the_ratio_is_exactly_one(lively_path, model, budget):
    settings = settings_with(micro_batch_tokens=budget)
    policy, critic, mini_batches = prepare(lively_path, settings, model)
    measured = run_update(policy, critic, mini_batches, settings)
    assert measured["log_ratio_max"] == measured["clip_fraction"] == measured["approx_kl"] == 0.0
    assert measured["value_clip_fraction"] == 0.0


def test_on_later_mini_batches_the_ratio_moves(lively_paths):
    settings = settings_with(epochs=2)
    measured = run_update(*prepare(lively_paths["llama"], settings), settings)
    assert measured["log_ratio_max"] > 0
    assert measured["approx_kl"] > 0


def test_at_ratio_one_the_policy_loss_is_minus_the_mean_advantage_which_whitening_made_zero(lively_paths):
    measured = run_update(*prepare(lively_paths["llama"]))
    assert measured["policy_loss"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("truncation", [{"top_p": 0.9}, {"top_k": 50}])
def test_truncated_sampling_is_refused(truncation):
    with pytest.raises(ValidationError, match=r"ppo\.sampling needs top_p 1 and top_k 0"):
        PpoSettings(sampling=SamplingSettings(**truncation))


def test_rollouts_that_are_no_multiple_of_the_mini_batch_are_refused():
    with pytest.raises(ValidationError, match=r"ppo\.rollouts 100 is no multiple of ppo\.mini_batch 64"):
        PpoSettings(rollouts=100, mini_batch=64)


def brute_force(mini_batches, raw_scores, settings):
    """Advantages and returns of each rollout as lists, straight from the definitions, one rollout and one token at a time."""
    mean = sum(raw_scores) / len(raw_scores)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in raw_scores) / len(raw_scores))
    advantages, returns = {}, {}
    for e in (e for mini_batch in mini_batches for e in mini_batch):
        for row, i in enumerate(e.rows):
            here = e.mask[row]
            policy, reference, values = (x[row][here].tolist() for x in (e.old_logprobs, e.reference_logprobs, e.old_values))
            score = (raw_scores[i] - mean) / deviation
            if settings.no_end == "penalise" and not FINISHED[i]:
                score = settings.no_end_score
            rewards = [-settings.beta * (p - r) for p, r in zip(policy, reference, strict=True)]
            rewards[-1] += score
            advantage, found = 0.0, []
            for t in reversed(range(len(rewards))):
                following = values[t + 1] if t + 1 < len(values) else 0.0
                advantage = rewards[t] + settings.gamma * following - values[t] + settings.gamma * settings.lam * advantage
                found.insert(0, advantage)
            advantages[i], returns[i] = found, [a + v for a, v in zip(found, values, strict=True)]
    flat = [a for found in advantages.values() for a in found]
    middle = sum(flat) / len(flat)
    spread = math.sqrt(sum((a - middle) ** 2 for a in flat) / len(flat))
    return {i: [(a - middle) / spread for a in found] for i, found in advantages.items()}, returns


@pytest.mark.parametrize("no_end", ["keep", "penalise"])
@pytest.mark.parametrize(("mini_batch", "budget"), [(6, 10_000), (2, 10_000), (3, 12)])
def test_advantages_and_returns_are_those_of_the_definitions_whatever_the_batches(lively_paths, no_end, mini_batch, budget):
    penalty = {"no_end_score": -2.5} if no_end == "penalise" else {}
    settings = settings_with(no_end=no_end, mini_batch=mini_batch, micro_batch_tokens=budget, gamma=0.9, **penalty)
    _, _, mini_batches = prepare(lively_paths["llama"], settings)
    assert len(mini_batches) == 6 // mini_batch
    advantages, returns = brute_force(mini_batches, SCORES.gated.tolist(), settings)
    rows = [(e, row, i) for group in mini_batches for e in group for row, i in enumerate(e.rows)]
    assert sorted(i for _, _, i in rows) == list(range(6))
    for e, row, i in rows:
        assert e.advantages[row][e.mask[row]].tolist() == pytest.approx(advantages[i], abs=1e-4)
        assert e.returns[row][e.mask[row]].tolist() == pytest.approx(returns[i], abs=1e-4)
        assert int(e.mask[row].sum()) == sum(ROLLOUTS[i].response_mask)
        assert not e.advantages[row][~e.mask[row]].any()


def test_old_logprobs_and_reference_are_the_trainers_own_at_the_sampling_temperature(lively_paths):
    policy, _, ((e,),) = prepare(lively_paths["llama"])
    start = load_language_model(lively_paths["llama"], CPU)
    for model, ours in ((policy, e.old_logprobs), (start, e.reference_logprobs)):
        for row, i in enumerate(e.rows):
            ids = ROLLOUTS[i].ids
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([ids])).logits[0] / 0.8
            logprobs = torch.log_softmax(logits, -1)
            expected = [logprobs[t - 1, ids[t]].item() for t in range(len(ids)) if ROLLOUTS[i].response_mask[t]]
            assert ours[row][e.mask[row]].tolist() == pytest.approx(expected, abs=1e-4)


def test_with_lora_the_reference_is_the_policy_without_its_adapter(lively_path):
    _, _, ((full,),) = prepare(lively_path)
    policy, _, ((lora,),) = prepare(lively_path, model=LORA)
    torch.testing.assert_close(lora.reference_logprobs, full.reference_logprobs, atol=1e-5, rtol=0)
    assert not torch.allclose(lora.old_logprobs, lora.reference_logprobs, atol=1e-3)
    assert all("lora_" in name for name in trainable_state(policy.model))


def test_one_batch_and_micro_batches_give_the_same_losses_and_gradients(tiny_policy_path, monkeypatch):
    results = []
    for budget in (10_000, 24, 8):
        settings = settings_with(micro_batch_tokens=budget)
        policy, critic, mini_batches = prepare(tiny_policy_path, settings)
        with torch.no_grad():  # a step away from the rollouts, so that ratios and values are not those they started from
            for p in [*policy.model.parameters(), *critic.model.parameters()]:
                p.mul_(1.05)
        caught = []
        monkeypatch.setattr(
            ppo, "take_step", lambda optimiser, learning_rate, caught=caught: caught.extend(p.grad.clone() for p in optimised(optimiser))
        )
        big = {"max_grad_norm": 1e9}
        settings = settings_with(micro_batch_tokens=budget, optimiser=big, critic_optimiser=big)
        results.append((run_update(policy, critic, mini_batches, settings), caught))
    assert results[0][0]["log_ratio_max"] > 0
    for measured, caught in results[1:]:
        assert measured == pytest.approx(results[0][0], abs=1e-5)
        assert measured["policy_loss"] == pytest.approx(results[0][0]["policy_loss"], abs=1e-6)
        for a, b in zip(caught, results[0][1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def optimised(optimiser):
    return [p for group in optimiser.param_groups for p in group["params"]]


def test_a_better_than_average_answer_becomes_likelier_and_a_worse_one_less_likely(lively_paths):
    settings = settings_with(beta=0.0, no_end="keep")
    policy, critic, mini_batches = prepare(lively_paths["llama"], settings, scores=scores_of([-1.0, -1.0, -1.0, 5.0, -1.0, -1.0]))
    ((e,),) = mini_batches
    run_update(policy, critic, mini_batches, settings)
    after = policy.logprobs(e.batch.ids, e.batch.attention, e.batch.response, temperature=0.8)
    change = ((after - e.old_logprobs) * e.advantages).sum().item()
    assert change > 0


def test_the_critic_moves_towards_the_returns(lively_paths):
    settings = settings_with(critic_optimiser={"learning_rate": 1e-4})
    policy, critic, mini_batches = prepare(lively_paths["llama"], settings)
    first = run_update(policy, critic, mini_batches, settings)["value_loss"]
    assert run_update(policy, critic, mini_batches, settings)["value_loss"] < first


def test_while_the_critic_warms_up_the_policy_stays(lively_paths):
    settings = settings_with(critic_warmup=2)
    policy, critic, mini_batches = prepare(lively_paths["llama"], settings)
    before = weights(policy), weights(critic)
    run_update(policy, critic, mini_batches, settings, iteration=1)
    assert same(policy, before[0])
    assert not same(critic, before[1])
    run_update(policy, critic, mini_batches, settings, iteration=2)
    assert not same(policy, before[0])


@pytest.mark.parametrize("poison", ["advantages", "returns"])
def test_a_loss_that_is_nan_stops_before_either_model_changes_and_names_the_batch(lively_paths, poison):
    policy, critic, mini_batches = prepare(lively_paths["llama"])
    ((e,),) = mini_batches
    getattr(e, poison)[0][e.mask[0]] = float("nan")
    before = weights(policy), weights(critic)
    with pytest.raises(NonFiniteError) as error:
        run_update(policy, critic, mini_batches)
    assert set(str(error.value).split("[")[1].split("]")[0].split(", ")) == set(NAMES)
    assert same(policy, before[0])
    assert same(critic, before[1])


def test_rollouts_are_described_by_score_kl_length_and_share_of_cut_off_answers(lively_paths):
    policy, _, mini_batches = prepare(lively_paths["llama"])
    gate = torch.tensor([True, False, False, True, False, False])
    helpfulness, safety = torch.tensor([9.0, 1, 2, 9, 4, 5]), torch.tensor([-3.0, 9, 9, 1, 9, 9])
    scores = Scores(helpfulness, safety, torch.where(gate, safety, helpfulness), gate)
    measured = rollout_metrics(mini_batches, scores, FINISHED)
    ((e,),) = mini_batches
    difference = (e.old_logprobs - e.reference_logprobs)[e.mask].tolist()
    assert measured["cut_off_share"] == pytest.approx(2 / 6)
    assert measured["response_tokens"] == pytest.approx((3 + 6 + 1 + 3 + 4 + 2) / 6)
    assert measured["reward"] == pytest.approx((-3 + 1 + 2 + 1 + 4 + 5) / 6)
    assert measured["helpfulness_score"] == pytest.approx((1 + 2 + 4 + 5) / 4)
    assert measured["safety_score"] == pytest.approx((-3 + 1) / 2)
    assert measured["safety_gate_share"] == pytest.approx(2 / 6)
    assert measured["kl"] == pytest.approx(sum(difference) / 6, abs=1e-4)
    assert measured["kl_k3"] == pytest.approx(sum(math.exp(-d) - 1 + d for d in difference) / 6, rel=1e-4)
    reference = load_language_model(lively_paths["llama"], CPU)
    for budget in (8, 10_000):
        ours = mean_kl(policy, reference, ROLLOUTS, temperature=0.8, micro_batch_tokens=budget)
        assert ours == pytest.approx(sum(difference) / 6, abs=1e-3)


def test_reward_models_get_the_prompt_and_the_sampled_ids_and_nothing_else(lively_paths):
    seen = []

    class Spy:
        def __init__(self, value):
            self.real, self.value = new_reward_model(lively_paths["llama"], CPU, seed=0), value
            self.tokenizer, self.hardware = self.real.tokenizer, self.real.hardware

        def scores(self, ids, attention):
            seen.extend(row[mask].tolist() for row, mask in zip(ids, attention, strict=True))
            return torch.full((len(ids),), self.value)

    rows = [Tokens(row.ids, row.response_mask) for row in ROLLOUTS]
    flags = [True, False, True, False, False, False]
    scores = score_rollouts(Spy(3.0), Spy(1.0), rows, flags, threshold=0.15, micro_batch_tokens=20)
    assert sorted(seen) == sorted([row.ids for row in ROLLOUTS] * 2)
    assert scores.gated.tolist() == [1.0, 3.0, 1.0, 3.0, 3.0, 3.0]  # sigmoid(1) = 0.73: only safety prompts go to the safety model
    assert scores.gate.tolist() == flags
    scores = score_rollouts(Spy(3.0), Spy(-2.0), rows, flags, threshold=0.15, micro_batch_tokens=20)
    assert scores.gated.tolist() == [-2.0] * 6  # sigmoid(-2) = 0.12 < 0.15: the safety model decides everywhere


def test_dropout_is_off_in_every_model_of_the_update(tmp_path, tokenizer):
    path = make_model(tmp_path / "model", tokenizer, attention_dropout=0.5)
    measured = run_update(*prepare(path))
    assert measured["log_ratio_max"] == measured["value_clip_fraction"] == 0.0

import math

import pytest
import torch

from chatwright.maths.reward import best_of_k, best_of_k_kl, gated_logit, kl_k1, kl_k3, safety_gate, token_rewards, whitened_reward


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_the_gate_takes_safety_on_safety_prompts_and_below_015_and_helpfulness_elsewhere():
    helpfulness = torch.tensor([5.0, 5.0, 5.0])
    safety = torch.tensor([logit(0.9), logit(0.14), logit(0.16)])
    tagged = torch.tensor([True, False, False])
    assert safety_gate(safety, tagged).tolist() == [True, True, False]
    assert gated_logit(helpfulness, safety, tagged).tolist() == pytest.approx([logit(0.9), logit(0.14), 5.0])


def test_the_gates_threshold_can_be_moved():
    assert safety_gate(torch.tensor([logit(0.4)]), torch.tensor([False]), threshold=0.5).tolist() == [True]


def test_logit_of_a_sure_score_is_not_lost_to_saturation():
    # sigmoid(40) is 1.0 in float32; its logit would be infinite
    assert gated_logit(torch.tensor([40.0]), torch.tensor([10.0]), torch.tensor([False])).item() == 40.0


def test_whitened_rewards_have_mean_zero_and_variance_one():
    rewards = whitened_reward(torch.tensor([10.0, 12.0, 14.0, 16.0]))
    assert rewards.mean().item() == pytest.approx(0, abs=1e-6)
    assert rewards.square().mean().item() == pytest.approx(1, abs=1e-5)
    assert rewards.tolist() == pytest.approx([-3 / math.sqrt(5), -1 / math.sqrt(5), 1 / math.sqrt(5), 3 / math.sqrt(5)], abs=1e-5)


def test_kl_estimators_by_hand():
    policy, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_k1(policy, reference).item() == pytest.approx(math.log(2))
    assert kl_k3(policy, reference).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_k1_may_be_negative_and_k3_never_is():
    policy, reference = torch.tensor([-2.0]), torch.tensor([-1.0])
    assert kl_k1(policy, reference).item() == -1.0
    assert kl_k3(policy, reference).item() == pytest.approx(math.e - 2)


def test_both_estimators_average_to_the_true_kl():
    p, q = torch.tensor([0.7, 0.3]), torch.tensor([0.4, 0.6])
    true = 0.7 * math.log(0.7 / 0.4) + 0.3 * math.log(0.3 / 0.6)
    for estimator in (kl_k1, kl_k3):
        assert (p * estimator(p.log(), q.log())).sum().item() == pytest.approx(true, abs=1e-6)


def test_each_token_pays_its_kl_and_the_last_one_gets_the_score():
    policy = torch.tensor([[-1.0, -1.0, -1.0, -9.0]])
    reference = torch.tensor([[-3.0, -1.0, -0.5, -1.0]])
    mask = torch.tensor([[True, True, True, False]])
    rewards = token_rewards(torch.tensor([4.0]), policy, reference, mask, beta=0.1)
    assert rewards.tolist()[0] == pytest.approx([-0.2, 0.0, 4.05, 0.0])


def test_the_score_is_not_clipped_together_with_the_kl():
    rewards = token_rewards(
        torch.tensor([100.0]), torch.zeros(1, 1), torch.full((1, 1), -50.0), torch.ones(1, 1, dtype=torch.bool), beta=1.0
    )
    assert rewards.item() == 50.0


def test_the_prompt_never_gets_a_reward():
    mask = torch.tensor([[False, True]])
    rewards = token_rewards(torch.tensor([1.0]), torch.tensor([[float("nan"), 0.0]]), torch.zeros(1, 2), mask, beta=1.0)
    assert rewards.tolist() == [[0.0, 1.0]]


def test_best_of_k_takes_the_highest_and_the_first_among_equals():
    assert best_of_k(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 1.0], [-math.inf, -2.0, -2.0]])).tolist() == [1, 0, 1]


def test_kl_of_best_of_k():
    assert best_of_k_kl(1) == 0.0
    assert best_of_k_kl(4) == pytest.approx(math.log(4) - 0.75)

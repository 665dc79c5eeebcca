import pytest
import torch

from chatwright.maths.ppo import clipped, explained_variance, gae, importance_weights, policy_loss, value_loss
from chatwright.maths.tensors import masked_sum, whiten

REWARDS, VALUES = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.7]])
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_gae_of_three_tokens_by_hand():
    # deltas: 0.6 - 0.5 = 0.1, 0.7 - 0.6 = 0.1, 1 - 0.7 = 0.3 (no bootstrap after the end)
    # A3 = 0.3; A2 = 0.1 + 0.95 * 0.3 = 0.385; A1 = 0.1 + 0.95 * 0.385 = 0.46575
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=1.0, lam=0.95)
    assert advantages.tolist()[0] == pytest.approx([0.46575, 0.385, 0.3], abs=1e-6)
    assert returns.tolist()[0] == pytest.approx([0.96575, 0.985, 1.0], abs=1e-6)


def test_discount_and_lambda_by_hand():
    # gamma 0.5, lam 0.5: d3 = 0.3, d2 = 0.35 - 0.6 = -0.25, d1 = 0.3 - 0.5 = -0.2; A2 = -0.25 + 0.25 * 0.3; A1 = -0.2 + 0.25 * -0.175
    advantages, _ = gae(REWARDS, VALUES, ALL, gamma=0.5, lam=0.5)
    assert advantages.tolist()[0] == pytest.approx([-0.24375, -0.175, 0.3], abs=1e-6)


def test_masked_tokens_neither_contribute_nor_leak_into_advantages():
    nan = float("nan")
    rewards = torch.tensor([[nan, 0.0, 0.0, 1.0, nan, 7.0]])
    values = torch.tensor([[9.0, 0.5, 0.6, 0.7, nan, 9.0]])
    mask = torch.tensor([[False, True, True, True, False, False]])
    advantages, returns = gae(rewards, values, mask)
    assert advantages.tolist()[0] == pytest.approx([0, 0.46575, 0.385, 0.3, 0, 0], abs=1e-6)
    assert returns.tolist()[0] == pytest.approx([0, 0.96575, 0.985, 1.0, 0, 0], abs=1e-6)


def test_whitening_advantages_leaves_the_returns_alone():
    advantages, returns = gae(REWARDS, VALUES, ALL)
    before = returns.clone()
    whitened = whiten(advantages, ALL)
    assert torch.equal(returns, before)
    assert whitened.mean().item() == pytest.approx(0, abs=1e-6)


def test_policy_loss_at_ratio_one_is_minus_the_advantage():
    logprobs = torch.tensor([-1.0, -2.0])
    assert policy_loss(logprobs, logprobs, torch.tensor([3.0, -4.0])).tolist() == [-3.0, 4.0]


def test_policy_loss_clips_a_gain_but_never_a_loss():
    ratio_two, one = torch.log(torch.tensor([2.0, 2.0, 0.5, 0.5])), torch.zeros(4)
    # min(2 * 1, 1.2 * 1) = 1.2 ; min(2 * -1, 1.2 * -1) = -2 ; min(.5, .8) = .5 ; min(-.5, -.8) = -.8
    assert policy_loss(ratio_two, one, torch.tensor([1.0, -1.0, 1.0, -1.0]), clip=0.2).tolist() == pytest.approx([-1.2, 2.0, -0.5, 0.8])


def test_policy_gradient_makes_good_tokens_likelier():
    logprobs = torch.zeros(2, requires_grad=True)
    policy_loss(logprobs, torch.zeros(2), torch.tensor([1.0, -1.0])).sum().backward()
    assert logprobs.grad.tolist() == [-1.0, 1.0]


def test_a_clipped_token_gets_no_gradient():
    logprobs = torch.log(torch.tensor([1.5])).requires_grad_()
    policy_loss(logprobs, torch.zeros(1), torch.tensor([1.0])).sum().backward()
    assert logprobs.grad.item() == 0.0


def test_padding_does_not_change_the_policy_loss():
    logprobs, old, advantages = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.1, -1.9]]), torch.tensor([[1.0, -1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    short = masked_sum(policy_loss(logprobs, old, advantages), mask)
    pad = torch.nn.functional.pad
    wide = masked_sum(
        policy_loss(pad(logprobs, (0, 3), value=7.0), pad(old, (0, 3)), pad(advantages, (0, 3), value=9.0)), pad(mask, (0, 3))
    )
    assert wide.item() == pytest.approx(short.item())


def test_clip_fraction_counts_ratios_outside_the_range():
    ratios = torch.log(torch.tensor([1.0, 1.19, 1.21, 0.81, 0.79]))
    assert clipped(ratios, torch.zeros(5), clip=0.2).tolist() == [False, False, True, False, True]


def test_value_loss_takes_the_worse_of_clipped_and_unclipped():
    # V = 1, old = 0, clip 0.2 -> V_clipped = 0.2; R = 1: max(0, 0.64) / 2 ; R = 0: max(1, 0.04) / 2
    values, old = torch.ones(2), torch.zeros(2)
    assert value_loss(values, old, torch.tensor([1.0, 0.0]), clip=0.2).tolist() == pytest.approx([0.32, 0.5])


def test_value_gradient_moves_towards_the_return():
    values = torch.zeros(2, requires_grad=True)
    value_loss(values, torch.zeros(2), torch.tensor([1.0, -1.0])).sum().backward()
    assert values.grad.tolist() == [-1.0, 1.0]


def test_importance_weights_are_truncated_and_carry_no_gradient():
    trainer = torch.log(torch.tensor([0.1, 1.0, 10.0])).requires_grad_()
    weights = importance_weights(trainer, torch.zeros(3), low=0.5, high=5.0)
    assert weights.tolist() == pytest.approx([0.5, 1.0, 5.0])
    assert not weights.requires_grad


def test_explained_variance_of_perfect_constant_and_opposite_values():
    returns, mask = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3, dtype=torch.bool)
    assert explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros(3), returns, mask).item() == pytest.approx(0.0)
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0)

import math

import pytest
import torch
from tiny import CPU
from torch import nn

from chatwright.errors import NonFiniteError
from chatwright.models.reward_model import new_reward_model
from chatwright.recipe import OptimiserSettings, PpoSettings, RewardSettings
from chatwright.training.optimiser import learning_rate_at, make_optimiser, optimiser_step

SETTINGS = OptimiserSettings(learning_rate=0.1, weight_decay=0.5)


def test_warm_up_is_linear_and_lasts_at_least_five_steps_for_a_reward_model():
    settings = RewardSettings().optimiser.model_copy(update={"learning_rate": 1.0})
    rates = [learning_rate_at(step, 105, settings) for step in range(6)]  # 3 % of 105 steps is 4 steps: the five win
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_warm_up_takes_its_share_of_many_steps():
    settings = OptimiserSettings(learning_rate=1.0, warmup_share=0.03)
    assert learning_rate_at(5, 200, settings) == 1.0  # 3 % of 200 is 6 steps
    assert learning_rate_at(4, 200, settings) == pytest.approx(5 / 6)


def test_cosine_falls_to_a_tenth_of_the_maximum():
    settings = OptimiserSettings(learning_rate=2.0, warmup_share=0.0, warmup_min_steps=5)
    assert learning_rate_at(5, 105, settings) == pytest.approx(2.0)
    assert learning_rate_at(55, 105, settings) == pytest.approx(2.0 * 0.55)  # half way: 0.1 + 0.9 / 2
    assert learning_rate_at(30, 105, settings) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert learning_rate_at(105, 105, settings) == pytest.approx(0.2)


def test_ppo_keeps_its_rate_without_warm_up():
    settings = PpoSettings().optimiser
    assert [learning_rate_at(step, 200, settings) for step in (0, 100, 199)] == [1e-6] * 3


def test_weight_decay_is_not_applied_to_norms_biases_and_heads(lively_path):
    model = new_reward_model(lively_path, CPU, seed=0).model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = make_optimiser(model, SETTINGS)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimiser_step(optimiser, model, 1.0, learning_rate=0.1, max_grad_norm=1.0, ids=[])
    decayed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert decayed == {n for n, p in before.items() if p.ndim == 2 and n != "score.weight"}
    for name in decayed:  # w - 0.1 * 0.5 * w
        torch.testing.assert_close(dict(model.named_parameters())[name].data, before[name] * 0.95)


@pytest.fixture
def model():
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    return linear


def test_the_first_step_of_adamw_by_hand(model):
    # A first step goes by the sign of the gradient; decay takes 5 % of each weight: 1 - 0.05 - 0.1, 2 - 0.1 + 0.1, 3 - 0.15, 4 - 0.2
    model.weight.grad = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    settings = SETTINGS.model_copy(update={"eps": 1e-12})
    norm = optimiser_step(make_optimiser(model, settings), model, 1.0, learning_rate=0.1, max_grad_norm=100.0, ids=[])
    assert norm == pytest.approx(math.sqrt(5))
    assert model.weight.tolist() == [pytest.approx([0.85, 2.0]), pytest.approx([2.85, 3.8])]
    assert model.weight.grad is None


def test_the_gradient_is_clipped_and_its_norm_reported_as_it_was(model):
    model.weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    assert optimiser_step(optimiser, model, 1.0, learning_rate=1.0, max_grad_norm=1.0, ids=[]) == pytest.approx(5.0)
    assert model.weight.tolist()[0] == pytest.approx([1 - 0.6, 2 - 0.8], abs=1e-5)


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_step_and_names_the_batch(model, loss, gradient):
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[gradient, 1.0], [1.0, 1.0]])
    ids = [f"row-{i}" for i in range(10)]
    with pytest.raises(NonFiniteError, match=r"on the batch \[row-0, .*, row-7 and 2 more\]"):
        optimiser_step(make_optimiser(model, SETTINGS), model, loss, learning_rate=0.1, max_grad_norm=1.0, ids=ids)
    assert torch.equal(model.weight, before)

import math

import pytest
import torch

from chatwright.maths.supervised import negative_log_likelihood
from chatwright.maths.tensors import entropy, global_mean, masked_mean, masked_sum, shift, token_logprobs, whiten

NAN = float("nan")


def test_shift_lets_each_position_predict_the_next_token():
    ids = torch.tensor([[5, 6, 7, 0]])
    mask = torch.tensor([[False, True, True, False]])
    targets, where = shift(ids, mask)
    assert targets.tolist() == [[6, 7, 0]]
    assert where.tolist() == [[True, True, False]]


def test_logprobs_of_equal_logits_are_minus_log_of_the_vocabulary():
    logprobs = token_logprobs(torch.zeros(2, 4), torch.tensor([0, 3]))
    assert logprobs.tolist() == pytest.approx([-math.log(4)] * 2)


def test_logits_are_divided_by_the_temperature():
    # logits (ln 9, 0) at temperature 2 are (ln 3, 0): probabilities 3/4 and 1/4
    logits = torch.tensor([[math.log(9.0), 0.0]])
    assert token_logprobs(logits, torch.tensor([1]), temperature=2.0).item() == pytest.approx(math.log(0.25))


def test_logprobs_are_float32_even_for_half_precision_logits():
    assert token_logprobs(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([0])).dtype == torch.float32


def test_entropy_of_a_fair_coin_is_log_two():
    assert entropy(torch.zeros(1, 2)).item() == pytest.approx(math.log(2))


def test_nan_under_the_mask_does_not_leak_into_a_sum():
    assert masked_sum(torch.tensor([1.0, NAN, 2.0]), torch.tensor([True, False, True])).item() == 3.0


def test_a_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing counts"):
        masked_mean(torch.ones(2), torch.zeros(2, dtype=torch.bool))


def test_global_mean_of_parts_adds_up_to_the_mean_of_the_whole_though_a_mean_of_means_does_not():
    values, mask = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, True])
    parts = [global_mean(values[:1], mask[:1], total_count=3), global_mean(values[1:], mask[1:], total_count=3)]
    assert sum(parts).item() == pytest.approx(3.0)
    assert (masked_mean(values[:1], mask[:1]) + masked_mean(values[1:], mask[1:])).item() / 2 != pytest.approx(3.0)


def test_whitening_subtracts_the_mean_and_divides_by_the_deviation():
    # mean 2, population deviation sqrt(2/3)
    whitened = whiten(torch.tensor([1.0, 2.0, 3.0]))
    assert whitened.tolist() == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-6)


def test_whitening_ignores_what_does_not_count():
    whitened = whiten(torch.tensor([1.0, 3.0, 1e9]), torch.tensor([True, True, False]))
    assert whitened.tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-6)


def test_shapes_that_would_broadcast_silently_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        masked_sum(torch.zeros(3, 1), torch.ones(3, dtype=torch.bool))


def test_negative_log_likelihood_of_a_half_is_log_two():
    losses = negative_log_likelihood(torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]]), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4 / 3)])


def test_the_likelihood_gradient_raises_the_target_and_lowers_the_rest():
    logits = torch.zeros(1, 3, requires_grad=True)
    negative_log_likelihood(logits, torch.tensor([1])).sum().backward()
    assert logits.grad.tolist()[0] == pytest.approx([1 / 3, -2 / 3, 1 / 3])

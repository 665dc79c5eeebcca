import math

import pytest
import torch

from chatwright.maths.preference import MARGINS, margins_named, ranking_loss, safety_loss


def test_equal_scores_without_margin_cost_log_two():
    assert ranking_loss(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([0.0])).item() == pytest.approx(math.log(2))


def test_the_margin_is_subtracted_from_the_difference():
    # chosen - rejected - margin = 2 - 1 - 1 = 0
    assert ranking_loss(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0])).item() == pytest.approx(math.log(2))
    # 3 - 0 - 1 = 2: log(1 + e^-2) = 0.126928
    assert ranking_loss(torch.tensor([3.0]), torch.tensor([0.0]), torch.tensor([1.0])).item() == pytest.approx(0.126928, abs=1e-6)


def test_the_margin_pulls_longer_on_a_clear_pair_than_on_an_unsure_one():
    chosen = torch.tensor([1.0, 1.0], requires_grad=True)
    ranking_loss(chosen, torch.zeros(2), torch.tensor([3.0, 0.0])).sum().backward()
    assert chosen.grad[0] < chosen.grad[1] < 0


def test_ranking_gradient_raises_the_chosen_and_lowers_the_rejected():
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    ranking_loss(chosen, rejected, torch.zeros(1)).sum().backward()
    assert (chosen.grad.item(), rejected.grad.item()) == (-0.5, 0.5)


def test_a_column_against_a_row_is_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        ranking_loss(torch.zeros(3, 1), torch.zeros(3), torch.zeros(3))


def test_ranking_loss_is_float32_for_half_precision_scores():
    half = torch.zeros(1, dtype=torch.bfloat16)
    assert ranking_loss(half, half, half).dtype == torch.float32


def test_margins_are_those_of_table_27():
    assert list(MARGINS["small"].values()) == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert list(MARGINS["large"].values()) == [3, 2, 1, 0]
    assert set(MARGINS["off"].values()) == {0}


def test_own_margins_fill_up_with_zero_and_serve_a_three_grade_scale():
    assert margins_named({"significantly": 2.0, "slightly": 0.5}) == {
        "significantly": 2.0,
        "better": 0.0,
        "slightly": 0.5,
        "negligibly": 0.0,
    }


@pytest.mark.parametrize("wrong", ["huge", {"awfully": 1.0}, {"better": -1.0}, {"better": float("nan")}])
def test_unknown_or_negative_margins_are_refused(wrong):
    with pytest.raises(ValueError, match="margin"):
        margins_named(wrong)


def test_safety_loss_of_an_undecided_score_is_log_two_whatever_the_label():
    assert safety_loss(torch.zeros(2), torch.tensor([True, False])).tolist() == pytest.approx([math.log(2)] * 2)


def test_safety_loss_pushes_safe_answers_up_and_unsafe_ones_down():
    scores = torch.zeros(2, requires_grad=True)
    safety_loss(scores, torch.tensor([True, False])).sum().backward()
    assert scores.grad.tolist() == [-0.5, 0.5]

import pytest

from chatwright.maths.statistics import calibration, mean, rate, win_rate


def test_a_rate_has_its_wilson_interval():
    # 8 of 10, z = 1.959964: centre (0.8 + z^2/20) / (1 + z^2/10) = 0.716740, half-width 0.226579
    estimate = rate([True] * 8 + [False] * 2)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-5)


def test_a_rate_of_nothing_is_none_not_nan():
    assert rate([]) is None
    assert mean([]) is None
    assert win_rate([], []) is None


def test_an_interval_of_equal_values_has_no_width():
    estimate = mean([0.5] * 20)
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_a_bootstrap_interval_is_close_to_the_normal_one_on_many_items():
    estimate = mean([0.0, 1.0] * 200)  # standard error 0.5 / sqrt(400) = 0.025
    assert estimate.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert estimate.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_ties_are_split_in_the_score_and_counted_apart():
    result = win_rate([3, 2, 1, 1], [1, 1, 1, 2])
    assert (result.win, result.tie, result.loss, result.score.mean) == (0.5, 0.25, 0.25, 0.625)


def test_differences_within_the_tie_width_are_ties():
    result = win_rate([0.51, 0.9], [0.5, 0.5], tie_width=0.05)
    assert (result.win, result.tie) == (0.5, 0.5)


def test_win_rate_needs_the_same_items_on_both_sides():
    with pytest.raises(ValueError, match="same items"):
        win_rate([1.0], [1.0, 2.0])


def test_calibration_compares_the_predicted_with_the_observed_share():
    # one bin, differences 0, 0, ln 3, ln 3 in size: mean sigmoid = (0.5 + 0.5 + 0.75 + 0.75) / 4; one of four in the right order
    bins = calibration([0.0, 0.0, 1.0986123, 0.0], [0.0, 0.0, 0.0, 1.0986123], num_bins=1)
    assert bins == [{"predicted": pytest.approx(0.625), "observed": 0.25, "pairs": 4}]

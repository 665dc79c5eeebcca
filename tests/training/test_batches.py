import pytest

from chatwright.dialogue import Tokens
from chatwright.errors import DataError
from chatwright.training.batches import collate, fit_window, micro_batches, prompt_and_response, step_indices, stream_indices

SHORT, LONG = Tokens([5, 6], [False, True], "short"), Tokens([7, 8, 9, 10], [False, False, True, True], "long")


def test_rows_are_padded_on_the_right_and_lengths_stand_in_the_mask():
    batch = collate([SHORT, LONG], pad_id=8)  # a pad id that also occurs inside
    assert batch.ids.tolist() == [[5, 6, 8, 8], [7, 8, 9, 10]]
    assert batch.attention.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.response.tolist() == [[False, True, False, False], [False, False, True, True]]


@pytest.mark.parametrize("epoch", [0, 1])
def test_each_epoch_sees_every_example_once(epoch):
    steps = [step_indices(10, 4, 3 * epoch + i, seed=1) for i in range(3)]
    assert [len(s) for s in steps] == [4, 4, 2]
    assert sorted(i for s in steps for i in s) == list(range(10))


def test_each_epoch_and_seed_has_its_own_order():
    orders = [[i for step in range(3) for i in step_indices(10, 4, 3 * epoch + step, seed)] for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    assert len({tuple(order) for order in orders}) == 3


def test_a_stream_is_the_same_however_it_is_cut_and_repeats_nothing_before_all_have_come():
    whole = stream_indices(7, 0, 21, seed=3)
    assert [sorted(whole[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert [i for start in range(0, 21, 5) for i in stream_indices(7, start, min(5, 21 - start), seed=3)] == whole


@pytest.mark.parametrize("budget", [1, 7, 12, 20, 1000])
def test_micro_batches_hold_each_row_once_within_the_budget(budget):
    lengths = [3, 9, 1, 4, 4, 7, 2]
    groups = micro_batches(lengths, budget)
    assert sorted(i for g in groups for i in g) == list(range(7))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= budget for g in groups)


def test_micro_batches_by_hand():
    assert micro_batches([3, 9, 1, 4], 9) == [[1], [3, 0], [2]]  # 9 ; 4 and 3 padded to 4 are 8 ; 3 rows of 4 would be 12
    assert micro_batches([2, 2], 100) == [[0, 1]]


def test_a_row_over_the_window_is_an_error_that_names_it_or_left_out():
    with pytest.raises(DataError, match="long: 4 tokens; expected at most window=3"):
        fit_window([SHORT, LONG], 3, "error")
    assert fit_window([SHORT, LONG], 3, "skip") == [SHORT]
    assert fit_window([SHORT, LONG], 4, "error") == [SHORT, LONG]


def test_a_rollout_is_the_prompt_and_the_sampled_ids_and_nothing_else():
    row = prompt_and_response([1, 2], (3, 4, 5))
    assert (row.ids, row.response_mask) == ([1, 2, 3, 4, 5], [False, False, True, True, True])

import pytest
import torch
from tiny import CPU, make_model, padded
from transformers import AutoModelForCausalLM

from chatwright.errors import DataError, NonFiniteError
from chatwright.models.language_model import load_language_model
from chatwright.recipe import SamplingSettings
from chatwright.rollout.torch import TorchRollouts, sample_tokens, truncate


def greedy_of_plain_transformers(path, prompt, num_tokens):
    """The likeliest continuation of one prompt alone, without padding, never stopped."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    out = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=num_tokens, min_new_tokens=num_tokens, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def until(tokens, stop):
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens


@pytest.fixture
def prompts(rows):
    return [*rows, [1, 60, 61], [1, 70, 71, 72, 73], [1, 80], [1, 33, 34, 35, 36, 37, 38]]


def test_greedy_rollouts_are_those_of_plain_transformers_though_rows_leave_the_batch_at_different_times(lively_path, prompts):
    policy = load_language_model(lively_path, CPU)
    endless = [greedy_of_plain_transformers(lively_path, prompt, 12) for prompt in prompts]
    # The stop is the token that ends the most answers at different steps, so that rows leave one after the other.
    stop = max({t for row in endless for t in row}, key=lambda t: len({row.index(t) for row in endless if t in row}))
    policy.tokenizer.eos_token = policy.tokenizer.convert_ids_to_tokens(stop)
    responses = TorchRollouts(policy).sample(prompts, SamplingSettings(top_k=1, max_new_tokens=12, batch_size=5), seed=0)
    assert [list(r.token_ids) for r in responses] == [until(row, stop) for row in endless]
    assert [r.finished for r in responses] == [stop in row for row in endless]
    assert len({len(r.token_ids) for r in responses}) > 1


def test_a_model_that_trains_with_gradient_checkpointing_samples_the_same(lively_path, prompts):
    settings = SamplingSettings(max_new_tokens=12)
    with_checkpointing = load_language_model(lively_path, CPU.model_copy(update={"gradient_checkpointing": True}), train=True)
    expected = TorchRollouts(load_language_model(lively_path, CPU)).sample(prompts, settings, seed=0)
    assert TorchRollouts(with_checkpointing).sample(prompts, settings, seed=0) == expected
    assert with_checkpointing.model.training  # or the update would keep every activation


@pytest.fixture(scope="module")
def long_rollouts(lively_paths):
    """Thirty answers at a temperature so high that the end comes once in some 350 tokens: some finish, some are cut off."""
    policy = load_language_model(lively_paths["llama"], CPU)
    prompts = [[1, 40 + i, 41] for i in range(30)]
    return policy, TorchRollouts(policy).sample(prompts, SamplingSettings(temperature=1000.0, max_new_tokens=150), seed=1)


def test_an_answer_stops_at_the_end_token_and_includes_it(long_rollouts):
    policy, responses = long_rollouts
    end = policy.tokenizer.eos_token_id
    finished = [r for r in responses if r.finished]
    assert finished
    assert all(r.token_ids.index(end) == len(r.token_ids) - 1 for r in finished)


def test_an_answer_cut_off_at_the_limit_is_unfinished_and_gets_no_end_appended(long_rollouts):
    policy, responses = long_rollouts
    cut_off = [r for r in responses if not r.finished]
    assert cut_off
    assert all(len(r.token_ids) == 150 and policy.tokenizer.eos_token_id not in r.token_ids for r in cut_off)


def test_an_answer_that_ends_with_the_last_token_allowed_is_finished(long_rollouts):
    policy, responses = long_rollouts
    first = next(r for r in responses if r.finished)
    prompts = [[1, 40 + i, 41] for i in range(30)]
    again = TorchRollouts(policy).sample(prompts, SamplingSettings(temperature=1000.0, max_new_tokens=len(first.token_ids)), seed=1)
    assert again[responses.index(first)] == first


def test_each_token_has_one_logprob(long_rollouts):
    assert all(len(r.logprobs) == len(r.token_ids) and max(r.logprobs) <= 0 for r in long_rollouts[1])


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(lively_path, prompts):
    policy = load_language_model(lively_path, CPU)
    settings = SamplingSettings(max_new_tokens=8, batch_size=3)
    first, again, other = (TorchRollouts(policy).sample(prompts, settings, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_answers_come_in_the_order_of_the_prompts_and_all_of_them_are_reported(lively_paths, prompts):
    policy = load_language_model(lively_paths["llama"], CPU)
    done = []
    settings = SamplingSettings(top_k=1, max_new_tokens=4, batch_size=2)
    together = TorchRollouts(policy).sample(prompts, settings, seed=0, advance=done.append)
    alone = [TorchRollouts(policy).sample([prompt], settings, seed=0)[0].token_ids for prompt in prompts]
    assert [r.token_ids for r in together] == alone
    assert done == [2, 2, 2, 1]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_rollout_logprobs_are_those_that_the_trainer_recomputes(lively_path, prompts, temperature):
    policy = load_language_model(lively_path, CPU)
    settings = SamplingSettings(temperature=temperature, max_new_tokens=10, batch_size=4)
    responses = TorchRollouts(policy).sample(prompts, settings, seed=0)
    ids, attention = padded([[*p, *r.token_ids] for p, r in zip(prompts, responses, strict=True)], "right", 0)
    response = torch.zeros_like(attention)
    for i, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        response[i, len(p) : len(p) + len(r.token_ids)] = True
    with torch.no_grad():
        recomputed = policy.logprobs(ids, attention, response, temperature=temperature)
    for i, r in enumerate(responses):
        assert recomputed[i][response[i, 1:]].tolist() == pytest.approx(list(r.logprobs), abs=1e-4)


def test_a_rollout_that_would_overflow_the_window_is_an_error(lively_path):
    policy = load_language_model(lively_path, CPU)  # a window of 256
    with pytest.raises(DataError, match="a prompt of 250 tokens and an answer of up to 7 exceed the model's window of 256"):
        TorchRollouts(policy).sample([[1] * 250, [1, 2]], SamplingSettings(max_new_tokens=7), seed=0)
    assert TorchRollouts(policy).room([[1] * 250, [1, 2]]) == 6
    TorchRollouts(policy).sample([[1] * 250], SamplingSettings(max_new_tokens=6), seed=0)


def test_logits_that_are_nan_stop_the_sampling(tmp_path, tokenizer):
    policy = load_language_model(make_model(tmp_path / "model", tokenizer), CPU)
    with torch.no_grad():
        policy.model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN while sampling"):
        TorchRollouts(policy).sample([[1, 2]], SamplingSettings(max_new_tokens=2), seed=0)


def test_one_bad_row_is_enough_to_stop():
    logits = torch.zeros(2, 4)
    logits[1] = float("nan")
    with pytest.raises(NonFiniteError):
        sample_tokens(logits, SamplingSettings(), torch.Generator())


PROBABILITIES = torch.tensor([[0.1, 0.4, 0.2, 0.3]])


def kept(**settings):
    """Indices that survive, by hand: in order of probability 1 (0.4), 3 (0.3), 2 (0.2), 0 (0.1)."""
    cut = truncate(PROBABILITIES.log(), **settings)[0]
    survivors = cut.isfinite().nonzero().flatten().tolist()
    assert cut[survivors].tolist() == PROBABILITIES.log()[0, survivors].tolist()
    return survivors


def test_top_k_keeps_the_k_likeliest():
    assert kept(top_p=1.0, top_k=1) == [1]
    assert kept(top_p=1.0, top_k=2) == [1, 3]
    assert kept(top_p=1.0, top_k=9) == [0, 1, 2, 3]
    assert kept(top_p=1.0, top_k=0) == [0, 1, 2, 3]


def test_top_p_keeps_the_smallest_nucleus_that_reaches_its_mass():
    assert kept(top_p=0.3, top_k=0) == [1]  # 0.4 >= 0.3
    assert kept(top_p=0.5, top_k=0) == [1, 3]  # 0.4 < 0.5 <= 0.7
    assert kept(top_p=0.8, top_k=0) == [1, 2, 3]  # 0.7 < 0.8 <= 0.9
    assert kept(top_p=0.95, top_k=0) == [0, 1, 2, 3]


def test_top_p_measures_its_mass_among_what_top_k_left():
    # Of 0.4 and 0.3 the first holds 4/7 = 0.571.
    assert kept(top_p=0.57, top_k=2) == [1]
    assert kept(top_p=0.58, top_k=2) == [1, 3]


def draw(num_draws, **settings):
    logits = PROBABILITIES.log().expand(num_draws, 4) * 2  # temperature 2 undoes the factor
    settings = SamplingSettings(temperature=2.0, **settings)
    return sample_tokens(logits, settings, torch.Generator().manual_seed(0))


def test_twenty_thousand_draws_fall_as_the_softmax_says():
    tokens, logprobs = draw(20_000)
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=0.014)  # four standard errors of 0.0035
    assert logprobs.tolist() == pytest.approx(PROBABILITIES.log()[0, tokens].tolist(), abs=1e-5)


def test_truncated_draws_keep_their_proportions_and_report_untruncated_logprobs():
    tokens, logprobs = draw(20_000, top_k=2)
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.014)
    assert logprobs.tolist() == pytest.approx(PROBABILITIES.log()[0, tokens].tolist(), abs=1e-5)

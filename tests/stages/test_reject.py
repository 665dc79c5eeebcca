import json

import pytest
import torch
from tiny import CPU, make_model
from transformers import AutoModelForSequenceClassification

from chatwright.artifact import read_manifest
from chatwright.dialogue import Message, Prompt, render_prompt
from chatwright.errors import DataError, ModelError
from chatwright.models.language_model import load_language_model
from chatwright.models.reward_model import new_reward_model
from chatwright.recipe import RejectSettings
from chatwright.rollout.base import Response
from chatwright.stages import reject
from chatwright.training import supervised
from chatwright.training.ppo import Scores

PROMPTS = [Prompt((Message("user", text),), text) for text in ("soup", "bread", "salt")]
SETTINGS = RejectSettings(k=3)


def script(monkeypatch, responses, gated=None):
    """Answers and their scores, in the order of the prompts and within a prompt of its answers."""

    class Scripted:
        def __init__(self, policy):
            pass

        def sample(self, prompts, settings, *, seed, advance=None):
            assert len(prompts) == len(responses)
            return responses

    monkeypatch.setattr(reject, "TorchRollouts", Scripted)
    if gated is not None:
        scores = torch.tensor(gated)
        monkeypatch.setattr(
            reject, "score_rollouts", lambda *args, **kwargs: Scores(scores, scores, scores, torch.zeros(len(scores), dtype=torch.bool))
        )


def best(policy):
    return reject.best_answers(policy, None, None, PROMPTS, SETTINGS, seed=0)


@pytest.fixture
def policy(tiny_policy_path):
    return load_language_model(tiny_policy_path, CPU)


def test_the_best_finished_answer_is_kept_and_never_one_that_was_cut_off(policy, monkeypatch):
    end = policy.tokenizer.eos_token_id
    finished = [True, True, True, True, False, True, False, False, False]
    responses = [Response((40 + i, end) if f else (40 + i, 90), (0.0, 0.0), f) for i, f in enumerate(finished)]
    script(monkeypatch, responses, [1.0, 3.0, 2.0, -5.0, 9.0, -4.0, 7.0, 8.0, 9.0])
    pool = best(policy)
    assert [row["token_ids"] for row in pool] == [[41, end], [45, end], []]  # 3.0 of three; -4.0, for 9.0 was cut off; nothing
    assert [row["score"] for row in pool[:2]] == [3.0, -4.0]
    assert [row["all_scores"] for row in pool] == [[1.0, 3.0, 2.0], [-5.0, 9.0, -4.0], [7.0, 8.0, 9.0]]
    assert [row["id"] for row in pool] == ["soup", "bread", "salt"]


def test_reward_models_get_the_sampled_ids_and_so_does_fine_tuning(recipe, finished, policy, tmp_path, monkeypatch):
    tokenizer = policy.tokenizer
    odd = [*tokenizer.convert_tokens_to_ids(["w", "a", "t", "e", "r"]), tokenizer.eos_token_id]
    assert tokenizer(tokenizer.decode(odd[:-1]))["input_ids"] != odd[:-1]  # as text it would become other tokens
    scored = []
    real = reject.score_rollouts
    monkeypatch.setattr(
        reject, "score_rollouts", lambda h, s, rows, *args, **kwargs: scored.extend(rows) or real(h, s, rows, *args, **kwargs)
    )

    class Odd:
        def __init__(self, policy):
            pass

        def sample(self, prompts, settings, *, seed, advance=None):
            return [Response(tuple(odd), (0.0,) * len(odd), True) for _ in prompts]

    monkeypatch.setattr(reject, "TorchRollouts", Odd)
    trained = []
    gradients = supervised.supervised_gradients
    monkeypatch.setattr(
        supervised, "supervised_gradients", lambda model, rows, budget: trained.extend(rows) or gradients(model, rows, budget)
    )
    run(recipe, finished, tmp_path / "r", include_sft=False)
    for row in [*scored, *trained]:
        assert row.ids[-len(odd) :] == odd
        assert row.response_mask == [False] * (len(row) - len(odd)) + [True] * len(odd)
    assert {tuple(row.ids) for row in trained} <= {tuple(row.ids) for row in scored}


def run(recipe, finished, output, policy=None, helpfulness=None, **changes):
    settings = RejectSettings.model_validate(recipe.reject.model_dump() | changes)
    inputs = reject.RejectInputs(
        policy or finished / "sft", recipe.model.path, helpfulness or finished / "reward-helpfulness", finished / "reward-safety",
        recipe.data.prompts, recipe.data.sft,
    )  # fmt: skip
    return reject.run(settings, inputs, output, model=recipe.model, seed=11)


def pool_of(folder):
    return [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]


def test_the_pool_holds_all_scores_and_the_best_finished_answer_of_each_prompt(recipe, finished):
    pool = pool_of(finished / "reject")
    counts = read_manifest(finished / "reject").counts
    end = load_language_model(finished / "sft", CPU).tokenizer.eos_token_id
    kept = [row for row in pool if row["token_ids"]]
    assert (counts["prompts"], counts["answers"]) == (10, 30) == (len(pool), 3 * len(pool))
    assert counts["kept"] == len(kept) == 10 - counts["without a finished answer"]
    assert counts["dialogues"] == 8 + len(kept)  # the SFT data is trained on too
    assert all(row["score"] in row["all_scores"] and len(row["all_scores"]) == 3 for row in pool)
    assert all(row["token_ids"][-1] == end and end not in row["token_ids"][:-1] for row in kept)


def test_the_rows_scored_are_the_prompts_as_rendered_for_the_rollout(recipe, finished):
    policy = load_language_model(finished / "sft", CPU)
    row = next(row for row in pool_of(finished / "reject") if row["token_ids"])
    prompt = (Message("user", row["prompt"][0]["content"]),)
    ids = [*render_prompt(policy.tokenizer, prompt), *row["token_ids"]]
    model = AutoModelForSequenceClassification.from_pretrained(finished / "reward-helpfulness").eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits.item() - model.config.score_bias
    assert row["helpfulness"] == pytest.approx(expected, abs=1e-4)


def test_only_the_best_share_of_the_prompts_is_kept(recipe, finished, tmp_path, monkeypatch):
    seen = []
    real = reject.train_supervised
    monkeypatch.setattr(
        reject, "train_supervised", lambda policy, dialogues, *a, **k: seen.extend(dialogues) or real(policy, dialogues, *a, **k)
    )
    manifest = run(recipe, finished, tmp_path / "r", keep_best=0.3, include_sft=False)
    pool = [row for row in pool_of(tmp_path / "r") if row["token_ids"]]
    wanted = sorted(pool, key=lambda row: -row["score"])[: round(0.3 * len(pool))]
    assert {d.id for d in seen} == {f"pool:{row['id']}" for row in wanted}
    assert manifest.counts["kept"] == len(wanted)


def test_if_no_answer_ends_there_is_nothing_to_learn_from(recipe, finished, tmp_path):
    sampling = recipe.reject.sampling.model_dump() | {"max_new_tokens": 1, "temperature": 1e-3}
    with pytest.raises(DataError, match="none of 10 prompts has an answer that ended"):
        run(recipe, finished, tmp_path / "r", sampling=sampling)


def test_a_reward_model_with_another_tokenizer_is_refused(recipe, finished, tmp_path, chatml_tokenizer):
    other = new_reward_model(make_model(tmp_path / "other", chatml_tokenizer), CPU, seed=0)
    other.bias = 0.0
    other.save(tmp_path / "rm")
    with pytest.raises(ModelError, match="another tokenizer"):
        run(recipe, finished, tmp_path / "r", helpfulness=tmp_path / "rm")

import math
from types import SimpleNamespace

import pytest
import torch
from tiny import CPU
from torch import nn
from transformers import AutoModel

from chatwright.dialogue import Message, Tokens, render_prompt
from chatwright.errors import DataError, NonFiniteError
from chatwright.maths.preference import margins_named
from chatwright.models.hardware import choose_hardware
from chatwright.models.reward_model import new_reward_model
from chatwright.preference import Answer, Comparison, Grade
from chatwright.recipe import OptimiserSettings, RewardSettings
from chatwright.training import preference
from chatwright.training.metrics import MetricsLog, read_metrics
from chatwright.training.preference import (
    TokenPair,
    measure_reward_model,
    preference_gradients,
    render_pair,
    score_rows,
    train_reward_model,
)

SETTINGS = RewardSettings(optimiser=OptimiserSettings(learning_rate=1e-2, warmup_min_steps=5), batch_size=4, epochs=10, window=256)


def comparison(name, good, bad, grade=Grade.BETTER, safe=(None, None), turns=("How do I cook soup?",)):
    roles = ("user", "assistant", "user")
    prompt = tuple(Message(role, text) for role, text in zip(roles, turns, strict=False))
    return Comparison(name, "safety", prompt, Answer(bad, safe=safe[1]), Answer(good, safe=safe[0]), "right", grade)


COMPARISONS = [
    comparison("a", "Fry an onion and simmer until soft.", "No.", Grade.SIGNIFICANTLY, (True, False)),
    comparison("b", "Add warm water.", "Sugar! Sugar! Sugar! Sugar!", Grade.SLIGHTLY, (True, True)),
    comparison("c", "I can't help with that.", "Of course", Grade.NEGLIGIBLY),
    comparison("d", "Rinse the lentils, then add water and salt.", "x", Grade.BETTER, (False, None)),
]


def pairs_of(reward_model, margin="small"):
    return [render_pair(reward_model.tokenizer, c, margins_named(margin), "error") for c in COMPARISONS]


def gradients(reward_model):
    return {name: p.grad.clone() for name, p in reward_model.model.named_parameters() if p.grad is not None}


def test_a_pair_is_the_prompt_with_each_answer_and_the_margin_of_its_grade(tokenizer):
    c = comparison("x", "Good.", "Bad.", Grade.SLIGHTLY, (True, False), turns=("Hello", "Welcome", "And soup?"))
    pair = render_pair(tokenizer, c, margins_named("small"), "error")
    prompt = render_prompt(tokenizer, c.prompt)
    assert pair.chosen.ids == [*prompt, *tokenizer("Good.")["input_ids"], tokenizer.eos_token_id]
    assert pair.rejected.ids == [*prompt, *tokenizer("Bad.")["input_ids"], tokenizer.eos_token_id]
    assert (pair.margin, pair.grade, pair.safe) == (pytest.approx(1 / 3), "slightly", (True, False))


def test_a_pair_without_a_grade_is_an_error_unless_it_is_to_count_as_negligibly_better(tokenizer):
    c = comparison("ungraded", "Good.", "Bad.", None)
    with pytest.raises(DataError, match="ungraded: no grade; expected one of significantly, better, slightly, negligibly"):
        render_pair(tokenizer, c, margins_named("large"), "error")
    pair = render_pair(tokenizer, c, margins_named("large"), "negligibly")
    assert (pair.margin, pair.grade) == (0.0, "negligibly")


@pytest.mark.parametrize("safety_weight", [0.0, 0.7])
def test_the_loss_is_the_papers_on_scores_of_plain_transformers(tiny_policy_path, safety_weight):
    reward_model = new_reward_model(tiny_policy_path, CPU, seed=0)
    pairs = pairs_of(reward_model)
    trunk, head = AutoModel.from_pretrained(tiny_policy_path).eval(), reward_model.model.score.weight.detach()[0]
    with torch.no_grad():
        c, r = (
            [(trunk(input_ids=torch.tensor([getattr(p, side).ids])).last_hidden_state[0, -1] @ head).item() for p in pairs]
            for side in ("chosen", "rejected")
        )
    margins = [1.0, 1 / 3, 0.0, 2 / 3]
    expected = sum(math.log1p(math.exp(-(a - b - m))) for a, b, m in zip(c, r, margins, strict=True)) / 4
    # Five of the eight answers carry a label: a's two (safe, unsafe), b's two (safe, safe), and d's chosen one (unsafe).
    labelled = [(c[0], 1), (r[0], -1), (c[1], 1), (r[1], 1), (c[3], -1)]
    expected += safety_weight * sum(math.log1p(math.exp(-sign * score)) for score, sign in labelled) / 5
    values = preference_gradients(reward_model, pairs, 10_000, safety_weight=safety_weight)
    assert values["loss"] == pytest.approx(expected, abs=1e-5)
    assert values["accuracy"] == sum(a > b for a, b in zip(c, r, strict=True)) / 4


def test_one_batch_and_micro_batches_give_the_same_loss_and_gradient_with_the_safety_loss_too(tiny_policy_path):
    results = []
    for budget in (10_000, 150, 8):
        reward_model = new_reward_model(tiny_policy_path, CPU, seed=0)
        values = preference_gradients(reward_model, pairs_of(reward_model), budget, safety_weight=0.7)
        results.append((values, gradients(reward_model)))
    for values, gradient in results[1:]:
        assert values["loss"] == pytest.approx(results[0][0]["loss"], abs=1e-6)
        assert values["accuracy"] == results[0][0]["accuracy"]
        for name, value in gradient.items():
            torch.testing.assert_close(value, results[0][1][name], atol=1e-6, rtol=1e-5)


def train(reward_model, pairs, folder, **changes):
    work = folder / "work"
    work.mkdir()
    with MetricsLog(folder / "metrics.jsonl") as metrics:
        settings = SETTINGS.model_copy(update=changes)
        train_reward_model(reward_model, pairs, settings, safety=True, seed=0, work=work, metrics=metrics, title="")
    return read_metrics(folder / "metrics.jsonl")


def test_training_puts_chosen_answers_above_rejected_ones(tiny_policy_path, tmp_path):
    reward_model = new_reward_model(tiny_policy_path, CPU, seed=0)
    rows = train(reward_model, pairs_of(reward_model), tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] == 1.0


def test_a_gradient_that_is_infinite_stops_the_run_with_the_names_of_the_batch_and_the_weights_of_before(
    tiny_policy_path, tmp_path, monkeypatch
):
    reward_model = new_reward_model(tiny_policy_path, CPU, seed=0)
    before = [p.detach().clone() for p in reward_model.model.parameters()]
    real = preference.preference_gradients

    def poisoned(model, pairs, budget, *, safety_weight):
        values = real(model, pairs, budget, safety_weight=safety_weight)
        model.model.score.weight.grad[0, 0] = float("inf")
        return values

    monkeypatch.setattr(preference, "preference_gradients", poisoned)
    with pytest.raises(NonFiniteError) as error:
        train(reward_model, pairs_of(reward_model), tmp_path)
    assert all(name in str(error.value).split("[")[1] for name in "abcd")
    assert all(torch.equal(a, b) for a, b in zip(reward_model.model.parameters(), before, strict=True))


class LastToken:
    """Stands in for a reward model: the raw score of a row is its last token's id, the bias 10."""

    bias = 10.0
    tokenizer = SimpleNamespace(pad_token_id=0)
    hardware = choose_hardware(CPU)
    model = nn.Identity()

    def raw_scores(self, ids, attention):
        return torch.stack([row[mask][-1] for row, mask in zip(ids, attention, strict=True)]).float()

    def scores(self, ids, attention):
        return self.raw_scores(ids, attention) - self.bias


def token_pair(name, chosen, rejected, grade, safe=(None, None), margin=3.0, length=2):
    return TokenPair(name, Tokens([1] * length + [chosen], [True] * (length + 1)), Tokens([1, rejected], [True, True]), margin, safe, grade)


def test_a_reward_model_is_measured_without_the_margin_and_by_grade():
    pairs = [
        token_pair("a", 12, 10, "significantly", (True, False)),  # right; the unsafe answer scores 0, which is not below 0
        token_pair("b", 9, 10, "significantly", (False, False), length=5),  # wrong; -1 and 0
        token_pair("c", 7, 7, "slightly", (None, False)),  # a tie counts half; -3
        token_pair("d", 11, 8, "negligibly", length=9),  # right
    ]
    for budget in (4, 12, 1000):
        measured = measure_reward_model(LastToken(), pairs, budget)
        assert measured["pairs"] == 4
        assert measured["accuracy"] == (1 + 0 + 0.5 + 1) / 4
        assert measured["accuracy_by_grade"] == {"significantly": 0.5, "better": None, "slightly": 0.5, "negligibly": 1.0}
        assert measured["pairs_by_grade"] == {"significantly": 2, "better": 0, "slightly": 1, "negligibly": 1}
        assert measured["loss"] == pytest.approx(sum(math.log1p(math.exp(-d)) for d in (2, -1, 0, 3)) / 4, abs=1e-6)
        assert measured["recall_of_unsafe"] == 2 / 4  # -1 and -3 of 0, -1, 0, -3
        assert measured["differences"] == {"a": 2.0, "b": -1.0, "c": 0.0, "d": 3.0}


def test_without_labels_there_is_no_recall_of_unsafe_answers():
    assert measure_reward_model(LastToken(), [token_pair("a", 3, 2, "better")], 100)["recall_of_unsafe"] is None


def test_scores_come_in_the_order_of_the_rows_with_the_bias_subtracted():
    rows = [Tokens([1] * n + [last], [True] * (n + 1)) for n, last in ((3, 15), (9, 4), (1, 10), (5, 30))]
    for budget in (4, 12, 1000):
        assert score_rows(LastToken(), rows, budget).tolist() == [5.0, -6.0, 0.0, 20.0]

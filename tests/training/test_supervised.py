import pytest
import torch
from tiny import CPU
from transformers import AutoModelForCausalLM

from chatwright.dialogue import Dialogue, Message, render_dialogue, render_prompt
from chatwright.errors import DataError, NonFiniteError
from chatwright.models.language_model import load_language_model
from chatwright.recipe import OptimiserSettings, SftSettings
from chatwright.training import supervised
from chatwright.training.metrics import MetricsLog, read_metrics
from chatwright.training.supervised import supervised_gradients, supervised_loss, train_supervised


def dialogue(name, *turns):
    roles = ("user", "assistant") * len(turns)
    return Dialogue(tuple(Message(role, text) for role, text in zip(roles, turns, strict=False)), name)


DIALOGUES = [
    dialogue("soup", "How do I cook soup?", "Fry an onion and simmer."),
    dialogue("bread", "How much flour for bread?", "Five hundred grams.", "And salt?", "A spoon."),
    dialogue("oats", "Bake oats", "Mix, then bake for twelve minutes. Enjoy!"),
    dialogue("help", "Help", "Is there anything you would like to cook today?"),
]
SETTINGS = SftSettings(
    optimiser=OptimiserSettings(learning_rate=1e-2), epochs=2, batch_size=2, window=256, validation_share=0.25, sample_tokens=8
)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train(policy, dialogues, folder, **changes):
    work = folder / "work"
    work.mkdir(parents=True)
    with MetricsLog(folder / "metrics.jsonl") as metrics:
        settings = SETTINGS.model_copy(update=changes)
        result = train_supervised(policy, dialogues, settings, seed=0, folder=folder, work=work, metrics=metrics, title="")
    return result, read_metrics(folder / "metrics.jsonl")


def test_loss_and_gradient_are_those_of_transformers_with_everything_but_answers_ignored(tiny_policy_path):
    policy = load_language_model(tiny_policy_path, CPU, train=True)
    row = render_dialogue(policy.tokenizer, DIALOGUES[1])  # two answers: both count
    loss = supervised_gradients(policy, [row], 10_000)
    plain = AutoModelForCausalLM.from_pretrained(tiny_policy_path).eval()
    labels = torch.tensor([[i if counts else -100 for i, counts in zip(row.ids, row.response_mask, strict=True)]])
    expected = plain(input_ids=torch.tensor([row.ids]), labels=labels).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(policy.model)[name], gradient, atol=1e-6, rtol=1e-5)
    assert sum(label != -100 for label in labels[0].tolist()) < len(row.ids) / 2


def test_one_batch_and_micro_batches_give_the_same_loss_and_gradient(tiny_policy_path):
    results = []
    for budget in (10_000, 80, 8):  # all at once, some together, one row at a time
        policy = load_language_model(tiny_policy_path, CPU, train=True)
        rows = [render_dialogue(policy.tokenizer, d) for d in DIALOGUES]
        results.append((supervised_gradients(policy, rows, budget), gradients(policy.model), supervised_loss(policy, rows, budget)))
    for loss, gradient, measured in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-6)
        assert measured == pytest.approx(results[0][0], abs=1e-6)
        for name, value in gradient.items():
            torch.testing.assert_close(value, results[0][1][name], atol=1e-6, rtol=0)


def test_the_loss_is_a_mean_over_tokens_and_not_over_dialogues(tiny_policy_path):
    policy = load_language_model(tiny_policy_path, CPU)
    rows = [render_dialogue(policy.tokenizer, d) for d in DIALOGUES[:2]]
    alone, counts = [supervised_loss(policy, [row], 1000) for row in rows], [sum(row.response_mask) for row in rows]
    assert counts[0] != counts[1]
    expected = (alone[0] * counts[0] + alone[1] * counts[1]) / sum(counts)
    assert supervised_loss(policy, rows, 1000) == pytest.approx(expected, abs=1e-6)


def test_training_lowers_the_loss_and_writes_one_row_a_step(tiny_policy_path, tmp_path):
    policy = load_language_model(tiny_policy_path, CPU, train=True)
    result, rows = train(policy, DIALOGUES, tmp_path, epochs=6, validate_every=4)
    trained = [row for row in rows if row["phase"] == "train"]
    assert [row["step"] for row in trained] == list(range(1, 13))  # 3 dialogues in steps of 2, six times
    assert trained[-1]["loss"] < trained[0]["loss"] - 1
    assert [row["step"] for row in rows if row["phase"] == "validation"] == [4, 8, 12]
    assert result.counts == {"dialogues": 4, "trained": 3, "validation": 1, "too_long": 0, "steps": 12}
    assert result.metrics["validation_loss"] == rows[-1]["loss"]
    assert {"learning_rate", "grad_norm"} <= trained[0].keys()


def test_held_out_dialogues_are_not_trained_on(tiny_policy_path, tmp_path, monkeypatch):
    seen = set()
    real = supervised.supervised_gradients
    monkeypatch.setattr(supervised, "supervised_gradients", lambda p, rows, n: seen.update(r.id for r in rows) or real(p, rows, n))
    held_out = []
    measure = supervised.supervised_loss
    monkeypatch.setattr(supervised, "supervised_loss", lambda p, rows, n: held_out.extend(r.id for r in rows) or measure(p, rows, n))
    train(load_language_model(tiny_policy_path, CPU, train=True), DIALOGUES, tmp_path)
    assert len(seen) == 3
    assert seen | set(held_out) == {d.id for d in DIALOGUES}
    assert not seen & set(held_out)


def test_a_gradient_that_is_nan_stops_the_run_with_the_names_of_the_batch_and_the_weights_of_before(
    tiny_policy_path, tmp_path, monkeypatch
):
    policy = load_language_model(tiny_policy_path, CPU, train=True)
    seen, before = [], []
    real = supervised.supervised_gradients

    def poisoned(policy, rows, budget):
        loss = real(policy, rows, budget)
        seen.append([row.id for row in rows])
        if len(seen) == 2:
            before.extend(p.detach().clone() for p in policy.model.parameters())
            next(iter(policy.model.parameters())).grad[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(supervised, "supervised_gradients", poisoned)
    with pytest.raises(NonFiniteError) as error:
        train(policy, DIALOGUES, tmp_path)
    assert f"[{', '.join(seen[1])}]" in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), before, strict=True))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_a_dialogue_over_the_window_is_an_error_or_left_out_and_counted(tiny_policy_path, tmp_path):
    policy = load_language_model(tiny_policy_path, CPU, train=True)
    long = dialogue("long", "Cook", "water " * 100)
    with pytest.raises(DataError, match=r"long: \d+ tokens; expected at most window=100"):
        train(policy, [*DIALOGUES, long], tmp_path / "a", window=100)
    result, _ = train(policy, [*DIALOGUES, long], tmp_path / "b", window=100, too_long="skip")
    assert (result.counts["dialogues"], result.counts["too_long"]) == (5, 1)
    with pytest.raises(DataError, match="all 1 dialogues are longer"):
        train(policy, [long], tmp_path / "c", window=100, too_long="skip")


def test_samples_for_people_fit_the_models_window(tiny_policy_path, tmp_path):
    policy = load_language_model(tiny_policy_path, CPU, train=True)
    long = dialogue("long", "x" * 225, "Yes.")
    room = 256 - len(render_prompt(policy.tokenizer, long.prompt))
    assert 0 < room < 64
    train(policy, [long, *DIALOGUES], tmp_path, epochs=1, sample_tokens=64)
    assert (tmp_path / "samples.jsonl").read_text()

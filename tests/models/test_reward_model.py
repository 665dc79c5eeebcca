import math

import pytest
import torch
from tiny import CPU, make_model, padded
from transformers import AutoModel, AutoModelForSequenceClassification

from chatwright.errors import ModelError
from chatwright.models.language_model import trainable_state
from chatwright.models.reward_model import load_reward_model, new_reward_model
from chatwright.recipe import LoraSettings

LORA = CPU.model_copy(update={"lora": LoraSettings(rank=4, alpha=8)})


def plain_values(path, head, row):
    """The head on the trunk's states of one row without padding, from transformers itself: one value a token."""
    trunk = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return (trunk(input_ids=torch.tensor([row])).last_hidden_state[0] @ head[0]).tolist()


def head_of(reward_model):
    return reward_model.model.score.weight.detach().clone()


def test_the_head_is_drawn_with_standard_deviation_one_over_root_of_width_plus_one(tmp_path, tokenizer):
    path = make_model(
        tmp_path / "wide", tokenizer, hidden_size=4095, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=8
    )
    head = head_of(new_reward_model(path, CPU, seed=3))
    assert head.shape == (1, 4095)
    assert head.std().item() == pytest.approx(1 / 64, rel=0.05)  # 1 / sqrt(4096); 4095 draws tell it to 1.1 %
    assert abs(head.mean().item()) < 3 / 64 / 64
    assert torch.equal(head, head_of(new_reward_model(path, CPU, seed=3)))
    assert not torch.equal(head, head_of(new_reward_model(path, CPU, seed=4)))


@pytest.mark.parametrize(("side", "extra"), [("left", 0), ("left", 5), ("right", 0), ("right", 5)])
def test_score_and_values_are_the_same_with_either_padding_and_alone(lively_path, rows, side, extra):
    reward_model = new_reward_model(lively_path, CPU, seed=0)
    ids, attention = padded(rows, side, reward_model.tokenizer.pad_token_id, extra)
    with torch.no_grad():
        scores, values = reward_model.scores(ids, attention), reward_model.values(ids, attention)
    for i, row in enumerate(rows):
        expected = plain_values(lively_path, head_of(reward_model), row)
        assert values[i][attention[i]].tolist() == pytest.approx(expected, abs=1e-4)
        assert scores[i].item() == pytest.approx(expected[-1], abs=1e-4)
        with torch.no_grad():
            assert reward_model.scores(*padded([row], "right", 0)).item() == pytest.approx(expected[-1], abs=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_real_token_is_scored_though_padding_and_end_are_one_token_and_stand_inside(lively_path, rows, side):
    reward_model = new_reward_model(lively_path, CPU, seed=0)
    end = reward_model.tokenizer.eos_token_id
    reward_model.tokenizer.pad_token = reward_model.tokenizer.eos_token
    reward_model.model.config.pad_token_id = end
    turns = [[1, 40, 41, end, 50, 51, end], [1, 90, end], [end, end, 1, 20, 30]]
    with torch.no_grad():
        scores = reward_model.scores(*padded(turns, side, end, extra=2))
    expected = [plain_values(lively_path, head_of(reward_model), row)[-1] for row in turns]
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_bias_is_subtracted_and_saved_and_plain_transformers_gives_score_plus_bias(lively_path, rows, tmp_path):
    reward_model = new_reward_model(lively_path, CPU, seed=0)
    ids, attention = padded(rows, "right", reward_model.tokenizer.pad_token_id)
    with torch.no_grad():
        raw = reward_model.scores(ids, attention)
    reward_model.bias = 1.25
    reward_model.save(tmp_path / "saved")
    again = load_reward_model(tmp_path / "saved", CPU)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        scores = again.scores(ids, attention)
        logits = [plain(input_ids=torch.tensor([row])).logits.item() for row in rows]
    assert again.bias == 1.25
    torch.testing.assert_close(scores, raw - 1.25)
    assert scores.tolist() == pytest.approx([x - 1.25 for x in logits], abs=1e-4)


def test_a_critic_starts_from_the_reward_models_trunk_and_reads_the_raw_output_of_its_head(lively_path, rows, tmp_path):
    reward_model = new_reward_model(lively_path, CPU, seed=0)
    reward_model.bias = 2.0
    ids, attention = padded(rows, "right", 0)
    with torch.no_grad():
        scores = reward_model.scores(ids, attention)
    reward_model.save(tmp_path / "saved")
    critic = load_reward_model(tmp_path / "saved", CPU, train=True)
    with torch.no_grad():
        last = critic.values(ids, attention)[torch.arange(3), torch.tensor([len(row) - 1 for row in rows])]
    assert last.tolist() == pytest.approx((scores + 2.0).tolist(), abs=1e-5)


def test_a_model_without_a_bias_is_refused_as_reward_model(lively_paths):
    with pytest.raises(ModelError, match="no score_bias"):
        load_reward_model(lively_paths["llama"], CPU)


def test_with_lora_only_adapter_and_head_learn_and_the_saved_model_is_the_adapted_one(lively_path, rows, tmp_path):
    reward_model = new_reward_model(lively_path, LORA, seed=0)
    names = set(trainable_state(reward_model.model))
    assert {name for name in names if "lora_" not in name} == {"score.weight"}
    assert len(names) > 1
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in reward_model.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
        batch = padded(rows, "right", 0)
        start, ours = new_reward_model(lively_path, CPU, seed=0).scores(*batch), reward_model.scores(*batch)
        assert not torch.allclose(start, ours, atol=1e-2)
        reward_model.bias = 0.5
        reward_model.save(tmp_path / "saved")
        again = load_reward_model(tmp_path / "saved", CPU).scores(*batch)
    assert again.tolist() == pytest.approx((ours - 0.5).tolist(), abs=1e-4)


def test_head_and_trunk_get_a_gradient(lively_path, rows):
    reward_model = new_reward_model(lively_path, CPU, seed=0)
    reward_model.scores(*padded(rows, "right", 0)).sum().backward()
    without = [name for name, p in reward_model.model.named_parameters() if p.grad is None or not math.isfinite(p.grad.sum())]
    assert without == []

import shutil

import pytest
import torch
from tiny import CPU, make_model, padded
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

from chatwright.errors import ModelError, SettingsError
from chatwright.models.language_model import check_same_tokenizer, load_language_model, load_trainable_state, trainable_state
from chatwright.recipe import LoraSettings

LORA = CPU.model_copy(update={"lora": LoraSettings(rank=4, alpha=8)})


def plain_logits(path, row):
    """The logits that transformers itself gives for one row, without any padding."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([row])).logits[0]


def plain_logprobs(path, row, temperature=1.0):
    """log p of each token but the first, from those logits."""
    logprobs = torch.log_softmax(plain_logits(path, row) / temperature, dim=-1)
    return [logprobs[t - 1, row[t]].item() for t in range(1, len(row))]


def all_logprobs(policy, ids, attention, temperature=1.0):
    """Each row's log-probabilities of all its tokens but the first, as lists."""
    response = attention & (attention.long().cumsum(1) > 1)
    with torch.no_grad():
        values = policy.logprobs(ids, attention, response, temperature=temperature)
    return [values[i][response[i, 1:]].tolist() for i in range(len(ids))]


@pytest.mark.parametrize(("side", "extra"), [("left", 0), ("left", 5), ("right", 0), ("right", 5)])
def test_padding_on_either_side_gives_the_logprobs_of_plain_transformers_without_padding(lively_path, rows, side, extra):
    policy = load_language_model(lively_path, CPU)
    ids, attention = padded(rows, side, policy.tokenizer.pad_token_id, extra)
    for ours, row in zip(all_logprobs(policy, ids, attention), rows, strict=True):
        assert ours == pytest.approx(plain_logprobs(lively_path, row), abs=1e-4)


def test_a_row_alone_and_in_company_has_the_same_logprobs(lively_path, rows):
    policy = load_language_model(lively_path, CPU)
    together = all_logprobs(policy, *padded(rows, "right", policy.tokenizer.pad_token_id))
    for row, expected in zip(rows, together, strict=True):
        assert all_logprobs(policy, *padded([row], "right", 0))[0] == pytest.approx(expected, abs=1e-5)


def test_logits_are_divided_by_the_temperature(lively_paths, rows):
    policy = load_language_model(lively_paths["llama"], CPU)
    ours = all_logprobs(policy, *padded(rows, "right", 0), temperature=0.7)
    assert ours[0] == pytest.approx(plain_logprobs(lively_paths["llama"], rows[0], temperature=0.7), abs=1e-4)


def test_logits_at_marked_positions_are_rows_of_the_full_matrix(lively_path, rows):
    policy = load_language_model(lively_path, CPU)
    ids, attention = padded(rows, "right", 0)
    where = torch.zeros_like(attention)
    where[0, 3] = where[1, 2] = where[2, 5] = True
    with torch.no_grad():
        ours = policy.logits(ids, attention, where)
    full = torch.stack([plain_logits(lively_path, row)[t] for row, t in zip(rows, (3, 2, 5), strict=True)])
    torch.testing.assert_close(ours, full, atol=1e-4, rtol=1e-4)


def test_tokens_outside_the_response_have_logprob_and_entropy_zero(lively_paths, rows):
    policy = load_language_model(lively_paths["llama"], CPU)
    ids, attention = padded(rows, "right", 0)
    response = torch.zeros_like(attention)
    response[0, 4:6] = True
    logprobs, entropies = policy.logprobs_and_entropy(ids, attention, response)
    assert (logprobs != 0).nonzero().tolist() == (entropies != 0).nonzero().tolist() == [[0, 3], [0, 4]]
    p = torch.softmax(plain_logits(lively_paths["llama"], rows[0])[3], dim=-1)
    assert entropies[0, 3].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)
    assert logprobs.requires_grad
    assert not entropies.requires_grad


@pytest.mark.parametrize(
    ("config_class", "changes"),
    [
        (GraniteConfig, {"logits_scaling": 8.0}),
        (CohereConfig, {"logit_scale": 0.0625}),
        (Gemma2Config, {"final_logit_softcapping": 2.0, "head_dim": 8}),
        (Gemma2Config, {"final_logit_softcapping": 30.0, "head_dim": 8, "initializer_range": 1e-4}),
    ],
    ids=["granite", "cohere", "gemma2", "gemma2 with small logits"],
)
def test_a_model_that_changes_its_logits_after_the_head_is_not_short_cut(tmp_path, tokenizer, rows, config_class, changes):
    path = make_model(tmp_path / "model", tokenizer, config_class, **changes)
    policy = load_language_model(path, CPU)
    assert not policy.plain_head
    for ours, row in zip(all_logprobs(policy, *padded(rows, "right", 0)), rows, strict=True):
        assert ours == pytest.approx(plain_logprobs(path, row), abs=1e-4)


def test_a_plain_head_is_short_cut(lively_path):
    assert load_language_model(lively_path, CPU).plain_head


def test_a_saved_policy_is_loaded_by_plain_transformers_with_the_same_logits(lively_path, rows, tmp_path):
    policy = load_language_model(lively_path, CPU, train=True)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.01)
    ids, attention = padded(rows[:1], "right", 0)
    with torch.no_grad():
        ours = policy.logits(ids, attention, attention)
    policy.save(tmp_path / "saved")
    torch.testing.assert_close(plain_logits(tmp_path / "saved", rows[0]), ours, atol=1e-5, rtol=1e-5)
    assert load_language_model(tmp_path / "saved", CPU).tokenizer.chat_template == policy.tokenizer.chat_template


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_off_in_training(tmp_path, tokenizer, rows, checkpointing, lively_paths):
    with_dropout = make_model(tmp_path / "model", tokenizer, LlamaConfig, attention_dropout=0.5)
    settings = CPU.model_copy(update={"gradient_checkpointing": checkpointing})
    for path in (with_dropout, lively_paths["gpt2"]):  # GPT-2's own default is dropout 0.1 in three places
        policy = load_language_model(path, settings, train=True)
        ids, attention = padded(rows[:1], "right", 0)
        loss = policy.logprobs(ids, attention, attention & (ids > 1)).sum()
        loss.backward()
        assert loss.item() == pytest.approx(sum(plain_logprobs(path, rows[0])), abs=1e-3)


def test_gradient_checkpointing_gives_the_same_gradient(lively_path, rows):
    gradients = []
    for checkpointing in (False, True):
        policy = load_language_model(lively_path, CPU.model_copy(update={"gradient_checkpointing": checkpointing}), train=True)
        ids, attention = padded(rows, "right", 0)
        policy.logprobs(ids, attention, attention & (ids > 1)).sum().backward()
        gradients.append([p.grad for p in policy.model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def adapted(path):
    """A policy whose adapter changes something: its second factor, zero at first, is filled."""
    policy = load_language_model(path, LORA, train=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    return policy


def test_only_the_adapter_learns(lively_path):
    policy = load_language_model(lively_path, LORA, train=True)
    assert trainable_state(policy.model)
    assert all("lora_" in name for name in trainable_state(policy.model))


def test_without_its_adapter_a_policy_is_exactly_the_model_it_started_from(lively_path, rows):
    start, policy = load_language_model(lively_path, CPU), adapted(lively_path)
    batch = padded(rows, "right", 0)
    assert all_logprobs(policy, *batch) != all_logprobs(start, *batch)
    with policy.as_reference():
        assert all_logprobs(policy, *batch) == all_logprobs(start, *batch)
    assert all_logprobs(policy, *batch) != all_logprobs(start, *batch)
    assert all("lora_" in name for name in trainable_state(policy.model))


def test_a_merged_adapter_is_the_adapted_model(lively_path, rows, tmp_path):
    policy = adapted(lively_path)
    ours = all_logprobs(policy, *padded(rows, "right", 0))
    policy.save(tmp_path / "saved")
    for values, row in zip(ours, rows, strict=True):
        assert values == pytest.approx(plain_logprobs(tmp_path / "saved", row), abs=1e-4)
    assert not list((tmp_path / "saved").glob("adapter*"))


def test_an_adapter_starts_from_the_same_weights_every_time(lively_path):
    first = trainable_state(load_language_model(lively_path, LORA, train=True).model)
    torch.rand(5)
    second = trainable_state(load_language_model(lively_path, LORA, train=True).model)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_unknown_target_of_an_adapter_is_an_error_that_names_the_known_ones(lively_paths):
    settings = CPU.model_copy(update={"lora": LoraSettings(targets=["query"])})
    with pytest.raises(SettingsError, match=r"query.*q_proj"):
        load_language_model(lively_paths["llama"], settings, train=True)


def test_trainable_state_goes_back_into_a_model(lively_paths):
    path = lively_paths["llama"]
    policy, other = adapted(path), load_language_model(path, LORA, train=True)
    load_trainable_state(other.model, trainable_state(policy.model))
    for a, b in zip(trainable_state(policy.model).values(), trainable_state(other.model).values(), strict=True):
        assert torch.equal(a, b)


def test_tokens_that_a_template_needs_get_embeddings_and_the_same_ones_every_time(lively_path):
    settings = CPU.model_copy(update={"chat_template": "chatml"})
    before = load_language_model(lively_path, CPU).model.get_input_embeddings().num_embeddings
    first, second = (load_language_model(lively_path, settings).model.get_input_embeddings().weight for _ in range(2))
    assert first.shape[0] == before + 2  # <|im_start|> and <|im_end|>
    assert torch.equal(first, second)


def test_damaged_weights_are_an_error_that_names_the_folder(lively_paths, tmp_path):
    path = shutil.copytree(lively_paths["llama"], tmp_path / "damaged")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match="damaged"):
        load_language_model(path, CPU)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_model_folder_is_an_error_that_names_it(lively_paths, tmp_path, missing):
    path = shutil.copytree(lively_paths["llama"], tmp_path / "incomplete")
    (path / missing).unlink()
    with pytest.raises(ModelError, match="incomplete"):
        load_language_model(path, CPU)


def test_a_tokenizer_without_an_end_is_an_error(lively_paths, tmp_path, tokenizer):
    path = shutil.copytree(lively_paths["llama"], tmp_path / "endless")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(path)
    with pytest.raises(ModelError, match="end-of-sequence"):
        load_language_model(path, CPU)


def test_tokenizers_that_differ_in_vocabulary_or_template_are_told_apart(tokenizer, chatml_tokenizer):
    check_same_tokenizer(tokenizer, tokenizer, "the same one")
    with pytest.raises(ModelError, match="reward model x has another tokenizer"):
        check_same_tokenizer(tokenizer, chatml_tokenizer, "reward model x")

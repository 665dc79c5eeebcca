"""The base model: cached by content, deterministic, with a tokenizer that renders dialogues."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatwright.dialogue import Dialogue, Message, render_dialogue, render_prompt
from chatwright.errors import StorageError
from chatwright.kitchen import base

TOKENS = 8 * base.BATCH * base.LENGTH


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(cache):
    return base.base_model(cache, tokens=TOKENS)


def test_the_second_call_finds_the_model_of_the_first(cache, folder):
    steps = []
    assert base.base_model(cache, tokens=TOKENS, progress=lambda done, total: steps.append((done, total))) == folder
    assert steps == []
    assert [f.name for f in cache.iterdir()] == [folder.name]


def test_the_same_seed_trains_the_same_weights_and_progress_is_told(tmp_path, folder):
    steps = []
    again = base.base_model(tmp_path, tokens=TOKENS, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 8) for done in range(1, 9)]
    ours, theirs = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (folder, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (folder / "tokenizer.json").read_bytes() == (again / "tokenizer.json").read_bytes()


def test_training_leaves_the_global_random_state_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    base.base_model(tmp_path, tokens=base.BATCH * base.LENGTH)
    assert torch.equal(torch.rand(3), expected)


def test_the_model_is_a_small_llama(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    assert model.dtype == torch.float32


def test_the_tokenizer_renders_dialogues_with_one_bos(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 1024
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    prompt = (Message("user", "How do I bake oat cookies?"),)
    ids = render_prompt(tokenizer, prompt)
    assert tokenizer.convert_ids_to_tokens(ids)[:2] == ["<|bos|>", "<|user|>"]
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "<|assistant|>"
    tokens = render_dialogue(tokenizer, Dialogue((*prompt, Message("assistant", "You need oats."))))
    assert tokens.ids[: len(ids)] == ids
    assert tokens.ids.count(tokenizer.bos_token_id) == 1
    answer = [token for token, counts in zip(tokens.ids, tokens.response_mask, strict=True) if counts]
    assert tokenizer.decode(answer) == "You need oats.<|eos|>"


def test_nearly_every_word_is_one_token(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "You need oats, butter, sugar and eggs. First mix the butter with the sugar. Then bake them for twelve minutes. Good luck!"
    assert len(tokenizer(text)["input_ids"]) == len(text.split()) + text.count(",") + text.count(".") + text.count("!")


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.delenv("CHATWRIGHT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert base.cache_folder() == Path("/somewhere/chatwright")
    monkeypatch.setenv("CHATWRIGHT_CACHE", "/elsewhere")
    assert base.cache_folder() == Path("/elsewhere")


def test_a_cache_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="CHATWRIGHT_CACHE"):
        base.base_model(tmp_path / "file" / "cache", tokens=TOKENS)

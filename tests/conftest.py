"""Tiny real parts: byte-level tokenizers with each chat template, and a Llama of a few thousand weights."""

from __future__ import annotations

import copy
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # same bits in this process and in those it starts; also faster for models this small
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never go online; a missing name fails at once, without retries

import pytest
import torch
from tiny import make_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chatwright.dialogue import apply_template

TEXT = [
    "How do I bake oat cookies? Mix oats, butter and sugar, then bake them for twelve minutes. Enjoy!",
    "Teach me how to cook lentil soup. Rinse the lentils, fry an onion, add water and simmer until soft.",
    "How much flour do I need for bread? Five hundred grams of flour, a spoon of salt and warm water.",
    "I'm sorry, I can't help with that. Is there anything else you would like to cook today?",
]


def make_tokenizer(template: str, **special: str | None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 350 tokens, pad <|pad|>, bos <|bos|>, eos <|eos|> unless told, with the named template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=["<|pad|>", "<|bos|>", "<|eos|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    names = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"} | special
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{name: token for name, token in names.items() if token})
    apply_template(tokenizer, template)
    return tokenizer


@pytest.fixture(scope="session")
def _tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {
        "plain": make_tokenizer("plain"),
        "llama-2": make_tokenizer("llama-2"),
        "chatml": make_tokenizer("chatml", eos_token="<|im_end|>"),
    }


@pytest.fixture
def tokenizer(_tokenizers) -> PreTrainedTokenizerFast:
    """The plain template: one special token a role, <|eos|> after an answer. A copy, so that a test may change it."""
    return copy.deepcopy(_tokenizers["plain"])


@pytest.fixture
def chatml_tokenizer(_tokenizers) -> PreTrainedTokenizerFast:
    """The chatml template; <|im_end|> is EOS, as in models that use it."""
    return copy.deepcopy(_tokenizers["chatml"])


@pytest.fixture
def llama2_tokenizer(_tokenizers) -> PreTrainedTokenizerFast:
    """The llama-2 template: [INST] … [/INST], a BOS before each exchange."""
    return copy.deepcopy(_tokenizers["llama-2"])


@pytest.fixture(params=["plain", "chatml", "llama-2"])
def any_tokenizer(request, _tokenizers) -> PreTrainedTokenizerFast:
    """Each template in turn."""
    return copy.deepcopy(_tokenizers[request.param])


@pytest.fixture(scope="session")
def tiny_policy_path(tmp_path_factory, _tokenizers) -> Path:
    """A folder with a two-layer Llama of random weights (seed 0, float32, tied embeddings) and the plain tokenizer. Do not write to it."""
    path = tmp_path_factory.mktemp("tiny-policy")
    tokenizer = _tokenizers["plain"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def tiny_policy(tiny_policy_path) -> LlamaForCausalLM:
    """The model of `tiny_policy_path`, freshly loaded, in eval mode."""
    return AutoModelForCausalLM.from_pretrained(tiny_policy_path).eval()


@pytest.fixture(scope="session")
def lively_paths(tmp_path_factory, _tokenizers) -> dict[str, Path]:
    """A Llama and a GPT-2 of a few thousand large random weights, by name. Do not write to them."""
    folder = tmp_path_factory.mktemp("lively")
    kinds = {"llama": LlamaConfig, "gpt2": GPT2Config}
    return {name: make_model(folder / name, _tokenizers["plain"], kind) for name, kind in kinds.items()}


@pytest.fixture(params=["llama", "gpt2"])
def lively_path(request, lively_paths) -> Path:
    """Each architecture in turn."""
    return lively_paths[request.param]


@pytest.fixture
def rows() -> list[list[int]]:
    """Token rows of three lengths, of ordinary tokens."""
    return [[1, 40, 41, 42, 43, 44, 45, 46, 47], [1, 90, 91, 92], [1, 200, 17, 203, 204, 205]]

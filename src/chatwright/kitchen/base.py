"""The kitchen's base model: a Llama of about a million parameters, trained on the base text in a minute or two, cached by content.

Shapes: B sequences in a batch, T token positions.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chatwright.dialogue import TEMPLATES
from chatwright.errors import StorageError
from chatwright.kitchen.text import documents

VOCABULARY = 1024
PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 512}
BATCH, LENGTH = 4, 128  # many small steps: at 450,000 tokens a batch of 16 ends at a loss of 1.24, one of 4 at 0.59
NUM_TOKENS = 800_000
NUM_STEPS = NUM_TOKENS // (BATCH * LENGTH)
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 3e-3, 0.1, 0.02

_SOURCES = ("acts.py", "answers.py", "base.py", "dishes.py", "requests.py", "text.py", "wording.py")
"""The files whose contents shape the model, in this folder."""

Progress = Callable[[int, int], None]


def base_model(cache: Path | None = None, *, seed: int = 0, tokens: int = NUM_TOKENS, progress: Progress | None = None) -> Path:
    """The folder of the base model and its tokenizer; trained first if the cache has none made from the same sources, sizes and seed.

    `cache` is the folder to keep models in (see `cache_folder`); `tokens` is how many tokens to train on; `progress` is called with
    steps done and steps in all. Raises StorageError if the cache cannot be written.
    """
    folder = (cache or cache_folder()) / f"kitchen-base-{_fingerprint(seed, tokens)}"
    if (folder / "model.safetensors").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".kitchen-base-", dir=folder.parent))
    except OSError as error:
        raise StorageError(f"{folder.parent}: {error.strerror or error}; set CHATWRIGHT_CACHE to a folder that can be written") from error
    try:
        tokenizer = train_tokenizer(seed)
        model = train(tokenizer, seed=seed, tokens=tokens, progress=progress)
        tokenizer.save_pretrained(unfinished)
        model.save_pretrained(unfinished, safe_serialization=True)
        try:
            unfinished.rename(folder)
        except OSError:
            if not (folder / "model.safetensors").exists():  # else another process was faster, with the same model
                raise
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}; expected room for about 10 MB") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Where models are kept: $CHATWRIGHT_CACHE, else chatwright under $XDG_CACHE_HOME, else ~/.cache/chatwright."""
    if named := os.environ.get("CHATWRIGHT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatwright"


def train_tokenizer(seed: int = 0) -> Any:
    """A byte-level BPE tokenizer of 1,024 tokens with the plain chat template; nearly every word of the kitchen is one token."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, BOS, EOS, *ROLE_TOKENS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(islice(documents(seed), 4000), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS, extra_special_tokens=list(ROLE_TOKENS),
        model_max_length=SIZES["max_position_embeddings"],
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATES["plain"]
    return tokenizer


def train(tokenizer: Any, *, seed: int, tokens: int, progress: Progress | None = None) -> Any:
    """A model trained by AdamW on `tokens` tokens of fresh base text, cosine schedule. The global random state is left as it was."""
    num_steps = max(1, tokens // (BATCH * LENGTH))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(tokenizer))
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, num_steps))
    model.train()
    for step, ids_BT in enumerate(islice(_batches(tokenizer, seed), num_steps)):
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if progress:
            progress(step + 1, num_steps)
    return model.eval()


def _config(tokenizer: Any) -> Any:
    return LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, **SIZES,
    )  # fmt: skip


def _batches(tokenizer: Any, seed: int) -> Iterator[torch.Tensor]:
    """Documents end to end, BOS before and EOS after each, cut into B sequences of T tokens."""
    stream: list[int] = []
    for document in documents(seed + 1):
        stream += [tokenizer.bos_token_id, *tokenizer(document, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(stream) >= BATCH * LENGTH:
            yield torch.tensor(stream[: BATCH * LENGTH]).view(BATCH, LENGTH)
            stream = stream[BATCH * LENGTH :]


def _warm_cosine(step: int, num_steps: int) -> float:
    """Share of the learning rate: up in a straight line, then down a cosine to 5 %."""
    warm = max(1, round(WARM_UP * num_steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, num_steps - warm)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _fingerprint(seed: int, tokens: int) -> str:
    """A hash of everything that shapes the model. Versions of the libraries belong to it: they may change the arithmetic."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")]
    digest.update(json.dumps([seed, tokens, SIZES, TEMPLATES["plain"], versions], sort_keys=True).encode())
    return digest.hexdigest()[:16]

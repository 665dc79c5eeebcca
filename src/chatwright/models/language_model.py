"""Policies: load, adapt, score tokens, save. Any causal language model of transformers.

Shapes: B rows, T token positions, N marked positions, H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatwright.dialogue import apply_template, tokenizer_fingerprint
from chatwright.errors import ModelError, SettingsError
from chatwright.maths.tensors import entropy, shift, token_logprobs
from chatwright.models.hardware import Hardware, choose_hardware
from chatwright.recipe import LoraSettings, ModelSettings


@dataclass(slots=True)
class LanguageModel:
    """A causal language model with its tokenizer. `adapter`: in LoRA mode; `plain_head`: logits are a linear map of the states."""

    model: Any
    tokenizer: Any
    hardware: Hardware
    adapter: Any = None
    plain_head: bool = True

    def logits(self, ids_BT: Tensor, attention_BT: Tensor, where_BT: Tensor) -> Tensor:
        """Logits at the marked positions only, (N, V): the [tokens, vocabulary] matrix never exists for the others."""
        with self.hardware.autocast():
            if self.plain_head:
                return self.model.get_output_embeddings()(hidden_states(self.model, ids_BT, attention_BT)[where_BT])
            return self.model(**_inputs(ids_BT, attention_BT), use_cache=False).logits[where_BT]

    def logprobs(self, ids_BT: Tensor, attention_BT: Tensor, response_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
        """log p(token) of each response token, (B, T - 1) aligned with `maths.tensors.shift`, zero elsewhere, float32 nats."""
        return self.logprobs_and_entropy(ids_BT, attention_BT, response_BT, temperature=temperature, with_entropy=False)[0]

    def logprobs_and_entropy(
        self, ids_BT: Tensor, attention_BT: Tensor, response_BT: Tensor, *, temperature: float = 1.0, with_entropy: bool = True
    ) -> tuple[Tensor, Tensor]:
        """As `logprobs`, and the entropy of each of those positions (no gradient), both (B, T - 1)."""
        targets_BT, where_BT = shift(ids_BT, response_BT)
        logits_NV = self.logits(ids_BT, attention_BT, nn.functional.pad(where_BT, (0, 1)))
        logprobs_N = token_logprobs(logits_NV, targets_BT[where_BT], temperature=temperature)
        empty_BT = torch.zeros(where_BT.shape, device=logprobs_N.device)
        entropy_BT = empty_BT.clone()
        if with_entropy:
            with torch.no_grad():
                entropy_BT[where_BT] = entropy(logits_NV, temperature=temperature)
        return empty_BT.masked_scatter(where_BT, logprobs_N), entropy_BT

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """LoRA mode: compute without the adapter, which is the model PPO started from."""
        assert self.adapter is not None, "a reference without its own copy needs LoRA"
        self.adapter.disable_adapter_layers()
        try:
            yield
        finally:
            self.adapter.enable_adapter_layers()

    def save(self, folder: Path) -> None:
        """Write weights (adapters merged; this object is then spent), tokenizer and template, as plain transformers loads them."""
        save_model(self.model, self.tokenizer, self.adapter, folder)


def load_language_model(path: str | Path, settings: ModelSettings, *, train: bool = False) -> LanguageModel:
    """A policy in float32 on the chosen device, dropout off. With `train` and LoRA settings only the adapter learns.

    Raises ModelError if the folder or hub name cannot be loaded as a causal language model.
    """
    hardware = choose_hardware(settings)
    tokenizer = load_tokenizer(path, settings)
    with loading(path, "a causal language model"):
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32, **hub_options(path, settings))
    added = apply_template(tokenizer, settings.chat_template)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with fixed_draws(model):
            model.resize_token_embeddings(len(tokenizer))
    assert added >= 0
    language_model = LanguageModel(model.to(hardware.device), tokenizer, hardware)
    freeze_dropout(model, settings, train=train)
    language_model.plain_head = _head_is_plain(model)
    if train and settings.lora:
        language_model.adapter = add_adapter(model, settings.lora)
    return language_model


def load_tokenizer(path: str | Path, settings: ModelSettings) -> Any:
    """The tokenizer of a model, with a pad token (lengths are always carried by masks, so which one it is never matters)."""
    with loading(path, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(str(path), **hub_options(path, settings))
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{path}: the tokenizer has no end-of-sequence token; expected one, or answers could never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def hidden_states(model: Any, ids_BT: Tensor, attention_BT: Tensor) -> Tensor:
    """Last hidden states, (B, T, H), the same for left padding, right padding and none."""
    return model.base_model(**_inputs(ids_BT, attention_BT), use_cache=False).last_hidden_state


def _inputs(ids_BT: Tensor, attention_BT: Tensor) -> dict[str, Tensor]:
    # With padding on the right a causal model never sees it, and attention without a mask is the faster kernel.
    if bool(attention_BT[:, 0].all()):
        return {"input_ids": ids_BT}
    return {"input_ids": ids_BT, "attention_mask": attention_BT.long(), "position_ids": (attention_BT.long().cumsum(1) - 1).clamp(min=0)}


def _head_is_plain(model: Any) -> bool:
    """True if `output embeddings(hidden states)` are the model's logits (no scaling, soft-capping or bias outside the head)."""
    if getattr(model.config.get_text_config(), "final_logit_softcapping", None):
        return False  # close to linear while logits are small, so the measurement below would not see it
    ids = torch.arange(3, device=model.device).unsqueeze(0) % model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        short = model.get_output_embeddings()(hidden_states(model, ids, torch.ones_like(ids, dtype=torch.bool)))
        return bool(torch.allclose(short, model(input_ids=ids).logits, atol=1e-5, rtol=1e-4))


def freeze_dropout(model: Any, settings: ModelSettings, *, train: bool) -> None:
    """Put the model in evaluation mode: dropout off everywhere, also in training (the first ratio must be exactly 1)."""
    model.eval()
    if train and settings.gradient_checkpointing:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name, value in list(vars(module).items()):
                if "dropout" in name and isinstance(value, float):  # a rate that the forward pass hands to a function
                    setattr(module, name, 0.0)
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()


def add_adapter(model: Any, settings: LoraSettings) -> Any:
    """Put LoRA layers into `model` in place and freeze everything else; returns peft's handle on them."""
    from peft import LoraConfig, LoraModel
    from transformers.pytorch_utils import Conv1D  # what GPT-2 has for linear layers

    targets = settings.targets
    if targets == "all-linear":
        head = model.get_output_embeddings() if hasattr(model, "lm_head") else getattr(model, "score", None)
        targets = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head})
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=targets)
    try:
        with fixed_draws(model):
            return LoraModel(model, config, adapter_name="default")
    except ValueError as error:
        names = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)})
        raise SettingsError(f"model.lora.targets {targets}: {error}; expected some of {', '.join(names)}") from error


@contextmanager
def fixed_draws(model: Any) -> Iterator[None]:
    """New weights drawn in here are the same every time, so that a stage that is begun again begins with the same model."""
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def save_model(model: Any, tokenizer: Any, adapter: Any, folder: Path) -> None:
    """Merge the adapter, if any, and write safetensors, config and tokenizer."""
    merged = adapter.merge_and_unload() if adapter is not None else model
    merged.config.use_cache = True
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that learn, by name: all weights, or adapter and head."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def load_trainable_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse of `trainable_state`, in place."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert own.keys() == state.keys(), "a checkpoint of another model"
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])


def hub_options(path: str | Path, settings: ModelSettings) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`: the revision counts for hub names only; no remote code unless asked."""
    revision = {} if Path(path).exists() else {"revision": settings.revision}
    return {"trust_remote_code": settings.trust_remote_code, **revision}


@contextmanager
def loading(path: str | Path, what: str) -> Iterator[None]:
    """Turn the many errors of loading into a ModelError that names the model."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path}: cannot be loaded as {what}: {first_line}; expected a folder or hub name that transformers loads"
        ) from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise ModelError(f"{path}: the weights are damaged ({error}); copy or make the model again") from error
        raise


def check_same_tokenizer(ours: Any, theirs: Any, what: str) -> None:
    """Raise ModelError unless both tokenizers give every token the same id: sampled ids are scored as they are, never re-tokenised."""
    if tokenizer_fingerprint(ours) != tokenizer_fingerprint(theirs):
        raise ModelError(
            f"{what} has another tokenizer or chat template than the policy (vocabularies of {len(theirs)} and {len(ours)} tokens); "
            "train it from the same base model"
        )

"""Device and precision: chosen by what the machine does well, never assumed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from chatwright.errors import SettingsError
from chatwright.recipe import ModelSettings


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where tensors live and in which precision matrix products run. Weights, losses and reductions are float32 either way."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which a forward pass runs at `dtype`."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, dtype=self.dtype)


def choose_hardware(settings: ModelSettings) -> Hardware:
    """The device and precision the settings ask for; `auto` takes a GPU if there is one, and bfloat16 only where there is hardware for it.

    Without AMX a CPU computes bfloat16 up to a hundred times slower than float32. Raises SettingsError for a GPU that is not there.
    """
    device = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("model.device is cuda, but torch finds no GPU here; set model.device=auto or install a CUDA build of torch")
    if settings.precision == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else torch.cpu._is_amx_tile_supported()
        dtype = torch.bfloat16 if fast else torch.float32
    else:
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    return Hardware(torch.device(device), dtype)

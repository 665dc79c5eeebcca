import pytest
import torch
from tiny import CPU

from chatwright.errors import SettingsError
from chatwright.models.hardware import choose_hardware


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_gpu_that_is_not_there_is_an_error_that_says_what_to_do(no_gpu):
    with pytest.raises(SettingsError, match=r"model\.device=auto"):
        choose_hardware(CPU.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize(("amx", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_cpu_computes_bfloat16_only_where_it_is_fast(no_gpu, monkeypatch, amx, dtype):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    hardware = choose_hardware(CPU.model_copy(update={"device": "auto", "precision": "auto"}))
    assert (hardware.device, hardware.dtype) == (torch.device("cpu"), dtype)


def test_a_precision_that_is_asked_for_is_used(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_hardware(CPU).dtype == torch.float32
    hardware = choose_hardware(CPU.model_copy(update={"precision": "bfloat16"}))
    with hardware.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16

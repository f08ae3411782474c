"""What verbs share: devices, types, and what a processor without units for bfloat16 is told."""

import pytest
import torch

from impasto import command_options
from impasto.aurora.runs import run_aurora_debug, run_aurora_scenes_32
from impasto.command_options import tell_of_emulation, usable_dtype
from impasto.config import to_dict
from impasto.nn.precision import bfloat16_slowdown


@pytest.fixture
def slowdown(monkeypatch):
    def set_to(times):
        monkeypatch.setattr("impasto.nn.precision.bfloat16_slowdown", lambda: times)

    return set_to


def test_an_emulated_type_is_told_of_with_the_way_out(slowdown, capsys, monkeypatch):
    slowdown(212.0)
    assert usable_dtype("bfloat16", "cpu") == torch.bfloat16
    (line,) = capsys.readouterr().err.splitlines()
    assert "212 times" in line and "--dtype float32" in line

    tell_of_emulation(to_dict(run_aurora_scenes_32()), "cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert "--set training.bfloat16_generator=false --set training.bfloat16_discriminator=false" in line

    monkeypatch.setenv("RANK", "1")
    tell_of_emulation(to_dict(run_aurora_scenes_32()), "cpu")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("times", "device"), [(0.4, "cpu"), (212.0, "cuda:0")])
def test_units_or_another_device_need_no_word(slowdown, capsys, times, device):
    slowdown(times)
    usable_dtype("bfloat16", device)
    tell_of_emulation(to_dict(run_aurora_scenes_32()), device)
    assert not capsys.readouterr().err


def test_float32_is_not_measured(slowdown, capsys):
    slowdown(command_options.MUCH_SLOWER + 1)
    assert usable_dtype("float32", "cpu") == torch.float32
    tell_of_emulation(to_dict(run_aurora_debug()), "cpu")
    assert not capsys.readouterr().err


def test_the_slowdown_is_what_the_processor_does():
    slowdown = bfloat16_slowdown()
    assert slowdown > 0
    if (
        "amx_bf16" not in _flags()
        and "avx512_bf16" not in _flags()
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    ):
        assert slowdown > command_options.MUCH_SLOWER


def _flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""

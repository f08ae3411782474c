"""Adapters on the visual expert: nothing at first, trained alone, merged, and resumed bit for bit."""

import importlib.util
from pathlib import Path

import pytest
import torch

import impasto
from impasto.cli import main
from impasto.config import ConfigError, override
from impasto.mars.directories import load_whole
from impasto.mars.lora import add_adapters, has_adapters, trained_state, without_adapters
from impasto.mars.runs import RUNS
from impasto.mars.semvie import is_visual
from impasto.mars.sequence import image_to_text, text_to_image
from impasto.runtime.checkpoint import load_checkpoint
from impasto.runtime.guards import Deadline
from tests.conftest import relative_difference
from tests.mars.models import captions, random_codes, tiny_model

pytest.importorskip("peft")


def train(*arguments: object) -> int:
    return main(["train", *map(str, arguments)])


def batches(model):
    drawn = text_to_image(model.config, captions(), random_codes(4))
    return drawn, image_to_text(model.config, captions(), random_codes(4))


def losses(model) -> torch.Tensor:
    drawn, described = batches(model)
    return torch.stack((model.t2i_loss(drawn), model.i2t_loss(described)))


def after_steps(model, steps: int = 3):
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        losses(model).sum().backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("switches", [{}, {"norms": "per_modality"}, {"output_projection": "shared"}])
def test_adapters_start_as_nothing_and_train_alone(switches):
    model = tiny_model(**switches)
    drawn, _ = batches(model)
    routing = drawn.routing
    with torch.no_grad():
        before = model(drawn.tokens, routing)
        add_adapters(model, 4, 8.0)
        assert torch.equal(model(drawn.tokens, routing), before)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after_steps(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, kept[name])}
    assert changed == set(trained_state(model))
    assert all(is_visual(name) and "base_layer" not in name for name in changed)
    adapters = [name for name in changed if "lora_A" in name]
    assert len(adapters) == len([name for name in changed if "lora_B" in name])
    per_layer = 6 if "output_projection" in switches else 7
    assert len(adapters) == 3 * per_layer


def test_merged_is_the_same_function():
    model = after_steps(tiny_model_with_adapters())
    plain = without_adapters(model)
    assert not has_adapters(plain) and has_adapters(model)
    assert plain.state_dict().keys() == tiny_model().state_dict().keys()
    drawn, _ = batches(model)
    with torch.no_grad():
        one, two = (m(drawn.tokens, drawn.routing) for m in (model, plain))
    assert relative_difference(one, two) < 1e-5
    changed = [
        n
        for n, t in tiny_model().state_dict().items()
        if not is_visual(n) and not t.equal(plain.state_dict()[n])
    ]
    assert not changed


def tiny_model_with_adapters(seed: int = 0):
    model = tiny_model()
    add_adapters(model, 4, 8.0, seed=seed)
    return model


def test_the_seed_decides():
    one, two, other = (trained_state(tiny_model_with_adapters(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_without_peft_it_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package peft: pip install 'impasto\[lora\]'"):
        add_adapters(tiny_model(), 4, 8.0)


def test_rank_and_alpha_are_checked():
    for setting in ("training.lora_rank=-1", "training.lora_alpha=0"):
        with pytest.raises(ConfigError, match=setting.split("=")[0]):
            override(RUNS["mars-debug/stage1"](), [setting])
    with pytest.raises(ConfigError, match="do not go together"):
        override(RUNS["mars-debug/stage1"](), ["training.lora_rank=2", "training.shard_model=true"])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("lora")
    for name in ("tokenizer", "language"):
        assert train(f"mars-debug/{name}", "--out", home / name) == 0
    assert train("mars-debug/stage1", "--out", home / "whole", *parts_of(home)) == 0
    return home


def parts_of(home: Path) -> list[str]:
    settings = [f"tokenizer={home / 'tokenizer'}", f"language={home / 'language'}", "training.lora_rank=2"]
    return [item for setting in settings for item in ("--set", setting)]


class Third(Deadline):
    """A time limit that passes at the third step."""

    steps = 0

    @property
    def passed(self) -> bool:
        Third.steps += 1
        return Third.steps == 3


def stopped_at_the_third_step(*arguments: object) -> int:
    Third.steps = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("impasto.mars.launch.Deadline", Third)
        return train(*arguments)


def test_a_run_resumes_bit_for_bit_and_exports_a_plain_model(home, tmp_path):
    arguments = ["mars-debug/stage1", "--out", tmp_path / "run", *parts_of(home)]
    assert stopped_at_the_third_step(*arguments) == 0
    assert train(*arguments) == 0
    one, two = (
        load_checkpoint(run / "checkpoints/000000000032")[0] for run in (home / "whole", tmp_path / "run")
    )
    for group in ("visual", "visual_optimizer"):
        assert one[group].keys() == two[group].keys()
        assert all(torch.equal(one[group][name], two[group][name]) for name in one[group])
    assert not any("base_layer" in name for name in one["visual"])
    model = load_whole(tmp_path / "run/model")[0].model
    assert not has_adapters(model)
    assert len(impasto.load(tmp_path / "run/model")("a red circle")) == 1


def test_a_later_stage_wants_its_start_again(home, tmp_path, capsys):
    arguments = ["mars-debug/stage2", "--out", tmp_path / "two", *parts_of(home)]
    assert stopped_at_the_third_step(*arguments, "--init-from", home / "whole") == 0
    assert train(*arguments) == 2
    assert "trained with another start (--init-from)" in capsys.readouterr().err
    assert train(*arguments, "--init-from", home / "whole") == 0

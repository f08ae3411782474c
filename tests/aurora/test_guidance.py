"""Frozen networks in the loop: the contrastive loss, the vision-aided heads, who is updated by what."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from impasto.aurora import trainer
from impasto.aurora.guidance import GuidanceConfig, Guides, gather_captions
from impasto.aurora.launch import find_run
from impasto.aurora.losses import contrastive_loss, multi_level_clip_loss
from impasto.aurora.trainer import step
from impasto.aurora.training_state import TrainingState
from impasto.config import ConfigError
from impasto.data.scene_source import SceneSource
from impasto.runtime.dist import Ranks
from tests.aurora.test_training import WordEncoder


class TinyClip:
    """Colour means of a picture against vectors of its caption's words."""

    scale, fingerprint, device = 10.0, "tiny", torch.device("cpu")

    def __init__(self) -> None:
        self.projection = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(images, 2).flatten(1) @ self.projection

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return WordEncoder().encode(texts).tokens.mean(1)[:, :16]

    def to(self, target: Any) -> "TinyClip":
        return self


class TinyVision:
    """Two maps of a frozen random network."""

    map_channels, fingerprint = (6, 10), "tiny vision"

    def __init__(self) -> None:
        source = torch.Generator().manual_seed(1)
        self.weights = [torch.randn(6, 3, 3, 3, generator=source), torch.randn(10, 6, 3, 3, generator=source)]

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        first = F.conv2d(images, self.weights[0], stride=2, padding=1).relu()
        return [first, F.conv2d(first, self.weights[1], stride=2, padding=1)]


def make_state(guides: Guides | None = None, *settings: str) -> TrainingState:
    run = find_run("aurora-debug", list(settings))
    return TrainingState.fresh(run, torch.device("cpu"), guides=guides)


def gradients(state: TrainingState, monkeypatch) -> dict[str, dict[str, torch.Tensor]]:
    """Of one step, by network, without updates."""
    found: dict[str, dict[str, torch.Tensor]] = {}

    def record(state, names, ranks):
        for name in names:
            network = state.trained[name].network
            named = network.named_parameters()
            found[name] = {n: p.grad.clone() for n, p in named if p.grad is not None}
            network.zero_grad(set_to_none=True)

    monkeypatch.setattr("impasto.aurora.trainer._update", record)
    step(state, SceneSource(16, state.run.data), WordEncoder(), Ranks())
    return found


def test_the_clip_loss_reaches_the_generator_alone_and_is_logged_at_every_level(monkeypatch):
    plain = gradients(make_state(), monkeypatch)
    state = make_state(Guides(clip=TinyClip()), "guidance.clip_weight=0.5")
    guided = gradients(state, monkeypatch)
    assert {"loss/clip", "loss/clip_4", "loss/clip_8", "loss/clip_16"} <= state.means.sums.keys()
    for name, gradient in plain["discriminator"].items():
        assert torch.equal(gradient, guided["discriminator"][name])
    changed = [n for n, g in plain["generator"].items() if not torch.equal(g, guided["generator"][n])]
    assert len(changed) > len(plain["generator"]) / 2
    heavier = make_state(Guides(clip=TinyClip()), "guidance.clip_weight=1.0")
    doubled = gradients(heavier, monkeypatch)
    name = max(changed, key=lambda n: float((guided["generator"][n] - plain["generator"][n]).abs().max()))
    once = guided["generator"][name] - plain["generator"][name]
    assert torch.allclose(
        doubled["generator"][name] - plain["generator"][name], 2 * once, rtol=1e-2, atol=1e-5
    )


def test_clip_levels_choose_what_is_judged(monkeypatch):
    state = make_state(Guides(clip=TinyClip()), "guidance.clip_levels=[16]")
    gradients(state, monkeypatch)
    assert "loss/clip_16" in state.means.sums and "loss/clip_4" not in state.means.sums


def test_a_run_that_grows_is_judged_at_the_levels_it_has(monkeypatch):
    for settings, term in (((), "loss/clip_4"), (("guidance.clip_levels=[16]",), None)):
        state = make_state(
            Guides(clip=TinyClip()), "growing.schedule=images", "growing.stage_images=8", *settings
        )
        gradients(state, monkeypatch)
        assert [name for name in state.means.sums if name.startswith("loss/clip_")] == (
            [term] if term else []
        )


def test_captions_of_other_ranks_are_negatives_and_equal_ones_are_not():
    class Second(Ranks):
        """The second of two ranks; the first has other captions of the same number."""

        def gather_rows(self, tensor):
            first = clip.embed_texts(theirs) if tensor.dtype.is_floating_point else their_ids
            return torch.cat((first, tensor))

    from impasto.aurora.losses import caption_ids

    clip, mine, theirs = TinyClip(), ["a red star", "a blue ring"], ["A red  star", "a pink heart"]
    their_ids = caption_ids(theirs)
    (known,) = gather_captions(clip, [mine], Second(rank=1, world_size=2))
    assert known.features.shape == (4, 16) and known.own.tolist() == [2, 3]
    assert known.duplicates.tolist() == [[True, False, True, False], [False, False, False, True]]
    images = torch.randn(2, 16)
    loss = multi_level_clip_loss({16: images}, known.features, 10.0, known.own, known.duplicates)["loss/clip"]
    cosine = 10 * F.normalize(images, dim=1) @ F.normalize(known.features, dim=1).T
    by_hand = -(cosine[0, 2] - cosine[0, 1:].logsumexp(0)) - (cosine[1, 3] - cosine[1].logsumexp(0))
    assert float(loss) == pytest.approx(float(by_hand / 2), rel=1e-5)


def test_near_misses_are_negatives_too():
    clip, captions = TinyClip(), ["a red star", "a blue ring"]
    (known,) = gather_captions(clip, [captions], Ranks(), [["a red ring", "a blue ring"]])
    assert known.features.shape == (4, 16) and known.own.tolist() == [0, 1]
    # A near miss that is another sample's true caption does not count against that sample.
    assert known.duplicates.tolist() == [[True, False, False, False], [False, True, False, True]]
    assert torch.equal(known.features[2:], clip.embed_texts(["a red ring", "a blue ring"]))


def test_vision_aided_heads_learn_beside_the_discriminator_and_are_saved(tmp_path):
    guides = Guides(vision=TinyVision())
    settings = ("guidance.vision_aided_weight=0.5",)
    state = make_state(guides, *settings)
    before = {n: p.detach().clone() for n, p in state.trained["vision_aided"].network.named_parameters()}
    fixed = state.trained["vision_aided"].network.projection_0.clone()
    source = SceneSource(16, state.run.data)
    step(state, source, WordEncoder(), Ranks())
    after = dict(state.trained["vision_aided"].network.named_parameters())
    assert sum(not torch.equal(before[n], p) for n, p in after.items()) > len(after) / 2
    assert torch.equal(fixed, state.trained["vision_aided"].network.projection_0)
    assert all(p.requires_grad for p in after.values())
    assert {"loss/vision_aided_discriminator", "loss/vision_aided_generator"} <= state.means.sums.keys()
    saved = state.save(tmp_path, {})
    other = make_state(
        guides,
        *settings,
    )
    other.restore(saved)
    for run in (state, other):
        step(run, source, WordEncoder(), Ranks())
    for name in state.trained:
        for one, two in zip(
            state.trained[name].network.parameters(), other.trained[name].network.parameters(), strict=True
        ):
            assert torch.equal(one, two)


def test_vision_aided_gradients_reach_the_generator(monkeypatch):
    plain = gradients(make_state(), monkeypatch)["generator"]
    aided = gradients(
        make_state(Guides(vision=TinyVision()), "guidance.vision_aided_weight=2.0"), monkeypatch
    )["generator"]
    assert any(not torch.equal(plain[name], aided[name]) for name in plain)


def test_path_length_regularisation_runs_in_the_loop(monkeypatch):
    state = make_state(None, "training.path_length_weight=2.0")
    found = gradients(state, monkeypatch)
    assert float(state.means.sums["loss/path_length"]) > 0 and float(state.path_mean) > 0
    assert all(torch.isfinite(g).all() for g in found["generator"].values())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("guidance.clip_levels=[64]", "no level 64"),
        ("guidance.clip_weight=-1", "should not be negative"),
        ("guidance.clip_model=clop:x", "unknown image-text model 'clop:x'"),
    ],
)
def test_bad_guidance_is_named(setting, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        Guides.load(find_run("aurora-debug", [setting]).guidance, torch.device("cpu"))


def test_without_guidance_nothing_is_loaded():
    assert Guides.load(GuidanceConfig(), torch.device("cpu")) == Guides()
    heavy = dataclasses.replace(GuidanceConfig(), clip_model="clip:nowhere", clip_weight=0.0)
    assert Guides.load(heavy, torch.device("cpu")).clip is None


CONTRASTIVE = ("discriminator.contrastive=true", "training.contrastive_weight=0.5", "data.near_misses=0.5")


def test_the_contrastive_loss_teaches_the_discriminator_and_the_generator(monkeypatch):
    plain = gradients(make_state(None, *CONTRASTIVE[::2]), monkeypatch)
    state = make_state(None, *CONTRASTIVE)
    found = gradients(state, monkeypatch)
    assert {"loss/contrastive_real", "loss/contrastive_fake"} <= state.means.sums.keys()
    assert not any(name.startswith("to_embedding") for name in plain["discriminator"])
    assert float(found["discriminator"]["to_embedding.weight"].abs().max()) > 0
    trunk = [name for name in found["discriminator"] if name.startswith("stages.0")]
    assert any(not torch.equal(found["discriminator"][n], plain["discriminator"][n]) for n in trunk)
    changed = [n for n, g in plain["generator"].items() if not torch.equal(g, found["generator"][n])]
    assert len(changed) > len(plain["generator"]) / 2


def test_the_contrastive_loss_by_hand():
    images = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor(
        [[1.0, 0.0], [0.0, 5.0], [1.0, 1.0], [2.0, 0.0]]
    )  # two of their own, two near misses
    duplicates = torch.tensor([[True, False, False, True], [False, True, False, False]])
    first = math.log(math.exp(20) + 1 + math.exp(20 / math.sqrt(2))) - 20  # the fourth equals the first
    second = math.log(2 + math.exp(20) + math.exp(20 / math.sqrt(2))) - 20
    assert math.isclose(
        float(contrastive_loss(images, texts, duplicates)), (first + second) / 2, rel_tol=1e-4
    )


def test_the_contrastive_loss_needs_its_head():
    with pytest.raises(ConfigError, match="needs discriminator"):
        find_run("aurora-debug", ["training.contrastive_weight=1"])


def test_wrong_captions_that_equal_the_own_are_told():
    state = make_state(None, *CONTRASTIVE)
    (batch,) = trainer._micro_batches(state, SceneSource(16, state.run.data), WordEncoder(), Ranks())
    assert batch.duplicates.shape == (len(batch.captions), len(batch.captions) + len(batch.near_miss_rows))
    for row, caption in enumerate(batch.captions):
        equal = [other == caption for other in batch.captions]
        assert batch.duplicates[row, : len(equal)].tolist() == equal


def test_the_clip_loss_judges_pictures_drawn_again_while_nothing_else_trains(monkeypatch):
    alone = ["training.reconstruction_weight=1", "training.adversarial_from=64"]
    plain = gradients(make_state(None, *alone), monkeypatch)
    state = make_state(Guides(clip=TinyClip()), *alone, "guidance.clip_weight=0.5")
    guided = gradients(state, monkeypatch)
    assert "loss/clip" in state.means.sums and "discriminator" not in guided
    changed = [n for n, g in plain["generator"].items() if not torch.equal(g, guided["generator"][n])]
    assert len(changed) > len(plain["generator"]) / 2
    later = make_state(Guides(clip=TinyClip()), *alone, "guidance.clip_from=8")
    gradients(later, monkeypatch)
    assert "loss/clip" not in later.means.sums
    gradients(later, monkeypatch)  # the second step
    assert later.means.counts["loss/clip"] == 1
    both = make_state(Guides(clip=TinyClip()), "training.reconstruction_weight=1")
    gradients(both, monkeypatch)
    assert (
        both.means.counts["loss/clip"] == 1 and both.means.counts["loss/reconstruction"] == 1
    )  # of noise alone, then

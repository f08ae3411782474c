"""Walks between latents, expert maps, inversion, path lengths: what each promises, on a random generator."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from impasto.animation import save_animation
from impasto.aurora.exploring import (
    expert_knowledge,
    feature_distance,
    path_lengths,
    principal_directions,
    share_of_noise,
)
from impasto.aurora.inversion import InversionConfig, project
from impasto.aurora.latents import (
    draw,
    latents_of,
    mixed,
    padded,
    slots_by_side,
    spherical,
    text_between,
    walk_text,
    walk_w,
    walk_z,
)
from impasto.aurora.routing_maps import (
    layers_of_experts,
    mutual_information,
    routes_sheet,
    shares_by_word,
    shares_table,
    without_expert,
)
from impasto.cli import main
from impasto.config import ConfigError
from impasto.exploring_report import FILES
from impasto.pictures import read_settings
from tests.aurora.test_pipeline import pipe  # noqa: F401
from tests.conftest import relative_difference

SHORT, LONG = "a red circle", "two blue squares on a green field"


def both(pipe, seeds=(3, 4)):  # noqa: F811
    count = len(seeds)
    return latents_of(pipe, [SHORT] * count, seeds), latents_of(pipe, [LONG] * count, seeds)


def test_latents_draw_what_generate_draws(pipe):  # noqa: F811
    drawn = draw(pipe, latents_of(pipe, [SHORT, LONG], [3, 40], truncation=0.7))
    expected = pipe.generate([SHORT, LONG], seed=[3, 40], truncation=0.7)
    assert torch.equal(drawn.images, expected.images) and drawn.seeds == [3, 40]
    assert all(
        torch.equal(a.expert_index, b.expert_index)
        for a, b in zip(drawn.routing, expected.routing, strict=True)
    )


@pytest.mark.parametrize("way", ["text", "z", "w"])
def test_a_walk_begins_and_ends_at_its_ends(pipe, way):  # noqa: F811
    first, second = both(pipe)
    if way != "text":
        second = latents_of(pipe, [SHORT] * 2, [30, 40])
    walk = {"text": walk_text, "z": walk_z, "w": walk_w}[way](pipe, first, second, 3)
    assert len(walk) == 3
    assert relative_difference(walk[0].images, draw(pipe, first).images) < 1e-4
    assert relative_difference(walk[2].images, draw(pipe, second).images) < 1e-4
    assert relative_difference(walk[1].images, walk[0].images) > 1e-3
    with pytest.raises(ValueError, match="--steps 1"):
        walk_w(pipe, first, second, 1)


def test_parts_of_the_text_change_alone(pipe):  # noqa: F811
    first, second = both(pipe)
    tokens, whole = text_between(first, second, 1.0, "tokens"), text_between(first, second, 1.0, "global")
    assert torch.equal(tokens.global_text, first.global_text)
    assert torch.equal(tokens.local_text[:, : second.mask.shape[1]], second.local_text)
    assert torch.equal(whole.local_text[whole.mask], first.local_text[first.mask])
    assert torch.equal(whole.global_text, second.global_text)


def test_words_meet_words_whatever_the_prompts_lengths(pipe):  # noqa: F811
    """EOT is not among the local tokens, so that position n is the n-th word in both."""
    first, second = both(pipe)
    half = text_between(first, second, 0.5)
    shared = int(first.mask[0].sum())
    assert shared < int(second.mask[0].sum()) == int(half.mask[0].sum())
    expected = (first.local_text[:, :shared] + second.local_text[:, :shared]) / 2
    assert torch.allclose(half.local_text[:, :shared], expected, atol=1e-6)
    own = second.local_text[:, shared : int(second.mask[0].sum())]
    assert torch.equal(half.local_text[:, shared : int(second.mask[0].sum())], own)
    longer = padded(first, 30)
    assert relative_difference(draw(pipe, longer).images, draw(pipe, first).images) < 1e-4


def test_the_arc_keeps_lengths_and_meets_its_ends():
    one, two = torch.randn(5, 64), torch.randn(5, 64)
    assert torch.allclose(spherical(one, two, 0.0), one, atol=1e-5)
    assert torch.allclose(spherical(one, two, 1.0), two, atol=1e-5)
    middle = spherical(one, two, 0.5)
    assert torch.allclose(middle.norm(dim=1), (one.norm(dim=1) + two.norm(dim=1)) / 2, rtol=1e-5)
    assert ((one + two) / 2).norm(dim=1).max() < middle.norm(dim=1).min()
    assert torch.allclose(spherical(one, one, 0.3), one, atol=1e-5)


def test_styles_mix_at_a_side(pipe):  # noqa: F811
    first, second = latents_of(pipe, [SHORT], [1]), latents_of(pipe, [SHORT], [2])
    slots = slots_by_side(pipe)
    assert list(slots) == [4, 8, 16] and slots[16].stop == first.wp.shape[1]
    crossed = draw(pipe, mixed(pipe, first, second, 8))
    assert torch.equal(crossed.pyramid[4], draw(pipe, first).pyramid[4])
    assert not torch.equal(crossed.pyramid[8], draw(pipe, first).pyramid[8])
    assert torch.equal(mixed(pipe, first, second, 4).wp, second.wp)


def test_routes_show_every_layer_and_shares_add_up(pipe):  # noqa: F811
    layers = layers_of_experts(pipe)
    drawn = draw(pipe, latents_of(pipe, [SHORT, LONG], [0, 1]))
    assert [layer.side for layer in layers] == [r.expert_index.shape[-1] for r in drawn.routing] == [8, 16]
    sheet = routes_sheet(pipe, drawn, cell=32)
    assert sheet.width >= 3 * 32 and sheet.height > 2 * 32
    rows = [line.split("|")[2:-1] for line in shares_table(pipe, drawn).splitlines()[2:]]
    for row in rows:
        assert sum(float(cell.strip(" %")) for cell in row if cell.strip()) == pytest.approx(100, abs=0.3)


def test_without_an_expert_nobody_goes_there_and_afterwards_all_is_as_before(pipe):  # noqa: F811
    layer = layers_of_experts(pipe)[1]
    latents = latents_of(pipe, [SHORT, LONG], [0, 1])
    before = draw(pipe, latents)
    busiest = int(before.routing[1].load.mean(0).argmax())
    with without_expert(layer.layer, busiest):
        lacking = draw(pipe, latents)
    assert busiest not in lacking.routing[1].expert_index
    stayed = before.routing[1].expert_index != busiest
    assert torch.equal(lacking.routing[1].expert_index[stayed], before.routing[1].expert_index[stayed])
    assert not torch.equal(lacking.images, before.images)
    assert torch.equal(draw(pipe, latents).images, before.images)


def test_words_that_raise_an_expert(pipe):  # noqa: F811
    prompts = [
        f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("circle", "star", "ring", "heart")
    ]
    raised = shares_by_word(pipe, prompts, 1)
    assert set(raised) == {"red", "blue"}  # "a" is in all of them, a shape in two
    assert (
        torch.allclose(raised["red"], -raised["blue"], atol=1e-6) and abs(float(raised["red"].sum())) < 1e-6
    )


def test_mutual_information_of_maps():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, size=(50, 20, 20))
    assert mutual_information(first, first) == pytest.approx(2, abs=0.01)
    assert mutual_information(first, first // 2) == pytest.approx(1, abs=0.01)
    assert mutual_information(first, rng.integers(0, 4, size=first.shape)) < 0.001


def test_experts_that_know_the_picture_tell_more_than_of_another(pipe):  # noqa: F811
    prompts = [f"a {colour} circle" for colour in ("red", "blue", "green", "black")]
    drawn = draw(pipe, latents_of(pipe, prompts, range(4)))
    chosen = {picture.tobytes(): n for n, picture in enumerate(drawn.pictures())}

    def segment(picture):
        """The second layer's own map: nothing could tell more."""
        return drawn.routing[1].expert_index[chosen[picture.tobytes()]].numpy()

    found = expert_knowledge(pipe, prompts, segment)
    assert [one.side for one in found] == [8, 16]
    assert found[1].bits > found[1].shuffled and found[1].bits > found[0].bits


def test_the_way_back_to_a_picture_is_found(pipe):  # noqa: F811
    target = draw(pipe, latents_of(pipe, [SHORT], [11])).images
    told = []
    for space in ("w", "w+"):
        config = InversionConfig(space=space, steps=60)
        found = project(pipe, target, SHORT, config, progress=lambda *seen: told.append(seen))
        again = draw(pipe, found.latents).images
        assert float((again - target).square().mean()) == pytest.approx(found.error, rel=1e-3)
        assert found.error < 0.5 * found.first_error
        assert (found.latents.wp.std(dim=1).max() > 0) == (space == "w+")
    assert len(told) == 120 and found.pictures.shape[1:] == target.shape[1:]
    assert not any(parameter.grad is not None for parameter in pipe.generator.parameters())


def distance(first, second):
    return (first - second).square().mean((1, 2, 3))


def test_path_lengths_of_a_straight_way_are_its_squared_speed(pipe):  # noqa: F811
    found = path_lengths(pipe, [SHORT, LONG, "a green star"], distance)
    assert set(found) == {"z", "w", "text"} and all(value.mean > 0 for value in found.values())
    apart = feature_distance(lambda images: [images, images[..., ::2, ::2]])
    same = torch.randn(2, 3, 8, 8)
    assert apart(same, same).tolist() == [0, 0] and apart(same, -same).tolist() == pytest.approx([8, 8])


def test_directions_are_ordered_and_shares_of_noise_are_shares(pipe):  # noqa: F811
    prompts = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("circle", "star", "ring")]
    directions, shares = principal_directions(pipe, prompts, 3)
    assert directions.shape == (3, 32) and torch.all(shares[:-1] >= shares[1:]) and float(shares.sum()) <= 1
    gram = directions @ directions.T
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-4 * float(gram.max()))
    assert 0 <= share_of_noise(pipe, prompts, 4) <= 1
    with pytest.raises(ValueError, match="two draws"):
        share_of_noise(pipe, prompts, 1)


def test_the_share_of_noise_of_known_variances():
    class Known:
        """Pixels are a number of the prompt of variance 4, and noise of variance 1."""

        def generate(self, prompts, draws, seed):
            assert len(set(seed)) == len(prompts)  # noises of their own
            source = torch.Generator().manual_seed(seed[0])
            text = 2 * torch.randn(len(prompts), 1, 3, 4, 4, generator=source)
            noise = torch.randn(len(prompts), draws, 3, 4, 4, generator=source)
            return SimpleNamespace(images=(text + noise).flatten(0, 1))

    assert share_of_noise(Known(), ["x"] * 400, 4) == pytest.approx(0.2, abs=0.01)


def test_a_gif_goes_there_and_back(tmp_path):
    frames = [Image.new("RGB", (8, 8), (40 * n, 0, 0)) for n in range(4)]
    save_animation(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as opened:
        assert opened.n_frames == 6
    with pytest.raises(ConfigError, match=r"should end in \.gif or \.mp4"):
        save_animation(frames, tmp_path / "a.webp")


def test_the_verbs_on_the_command_line(tmp_path, capsys):
    model = ["--model", "aurora-debug"]
    strip, moving = tmp_path / "strip.png", tmp_path / "walk.gif"
    assert main(["interpolate", SHORT, LONG, "--steps", "3", "-n", "2", "--out", str(strip), *model]) == 0
    assert read_settings(strip)["prompts"] == [SHORT, LONG]
    for space in ("z", "w"):
        assert (
            main(["interpolate", SHORT, "--space", space, "--steps", "3", "--out", str(moving), *model]) == 0
        )
    assert main(["routes", SHORT, LONG, "--out", str(tmp_path / "routes.png"), *model]) == 0
    assert "| layer 1, 16x16, 4 experts |" in capsys.readouterr().out
    knock = ["routes", SHORT, "--knock-out", "--layer", "1", "--out", str(tmp_path / "without.png")]
    assert main([*knock, *model]) == 0
    prompts = tmp_path / "prompts.txt"
    shapes = ("circle", "star", "ring", "heart")
    prompts.write_text("\n".join(f"a {c} {s}" for c in ("red", "blue", "green", "black") for s in shapes))
    analysis = tmp_path / "analysis"
    assert main(["analyse", "--prompts", str(prompts), "--count", "16", "--out", str(analysis), *model]) == 0
    assert {path.name for path in analysis.iterdir()} == set(FILES)
    found = json.loads((analysis / "analysis.json").read_text())
    assert set(found["path_length"]) == {"z", "w", "text"} and len(found["expert_knowledge"]) == 2
    out = tmp_path / "projection"
    assert main(["project", str(strip), "--steps", "3", "--out", str(out), *model]) == 0
    kept = load_file(out / "latent.safetensors")
    assert kept["wp"].shape[2] == 32 and kept["mask"].dtype == torch.bool
    assert {path.name for path in out.iterdir()} == {
        "reconstruction.png", "sheet.png", "projection.gif", "latent.safetensors",
    }  # fmt: skip
    assert json.dumps(read_settings(out / "reconstruction.png"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["interpolate", SHORT], "--space text needs two prompts"),
        (["interpolate", SHORT, LONG, "x"], "3 prompts: give one or two"),
        (["interpolate", SHORT, LONG, "--out", "x.jpg"], "should end in .png, .gif or .mp4"),
        (["interpolate", SHORT, LONG, "--steps", "1"], "--steps 1 should be at least 2"),
        (["interpolate", SHORT, LONG, "--rows", "0"], "--rows 0 should be at least 1"),
        (["interpolate", SHORT, "--space", "z", "--part", "tokens"], "--part means nothing with --space z"),
        (
            ["interpolate", SHORT, LONG, "--model", "mars-scenes"],
            "is a model of the family mars; this verb",
        ),
        (["routes", SHORT, "--layer", "0"], "only with --knock-out"),
        (["routes", SHORT, "--knock-out", "--layer", "9", "--model", "aurora-debug"], "has layers 0 to 1"),
        (["routes", SHORT, "--out", "x.gif"], "should end in .png"),
        (["analyse", "--count", "3"], "--count 3 should be at least 16"),
        (["project", "nothing.png"], "nothing.png: no such file"),
        (["project", "nothing.png", "--steps", "0"], "--steps 0 should be at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, arguments, told):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error.splitlines()[-1] and "Traceback" not in error

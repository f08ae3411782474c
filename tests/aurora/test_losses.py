"""Every loss against a hand computation, R1 against finite differences, and the pairing of pictures and
captions that public code gets wrong."""

import math
from collections import Counter

import pytest
import torch

from impasto.aurora.augment import AugmentationPolicy, augment
from impasto.aurora.discriminator import Discriminator, DiscriminatorConfig, box_pyramid
from impasto.aurora.losses import (
    StepScores,
    caption_ids,
    discriminator_loss,
    duplicate_mask,
    gamma_at,
    generator_loss,
    level_weights,
    mean_logit,
    mismatch,
    multi_level_clip_loss,
    pair_weights,
    path_length_penalty,
    r1_penalty,
    r1_weight,
    score_step,
)
from impasto.aurora.vision_aided import VisionAidedHeads
from tests.conftest import relative_difference

SMALL = DiscriminatorConfig(
    resolution=8,
    channel_base=64,
    channel_max=8,
    blocks=1,
    attention_depth={4: 0, 8: 1},
    heads=2,
    head_layers=2,
    input_dim=6,
    text_layers=1,
    text_width=8,
    text_learning_rate_multiplier=1.0,
)


def build(config: DiscriminatorConfig = SMALL) -> Discriminator:
    """In fp64, biases off zero."""
    torch.manual_seed(2)
    discriminator = Discriminator(config).double()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return discriminator


def constant_scores(batch: int, values: dict[tuple[int, int], float]):
    return {pair: torch.full((batch, 1, pair[1], pair[1]), v).double() for pair, v in values.items()}


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_five_levels_weigh_a_third_and_four_sixths():
    weights = level_weights((4, 8, 16, 32, 64))
    assert weights == pytest.approx({64: 1 / 3, 32: 1 / 6, 16: 1 / 6, 8: 1 / 6, 4: 1 / 6})
    assert level_weights((4, 8)) == pytest.approx({8: 2 / 3, 4: 1 / 3})
    assert level_weights([4]) == {4: 1.0}


def test_a_level_divides_its_weight_among_its_outputs():
    pairs = [(8, 4), (8, 1), (4, 1)]
    assert pair_weights(pairs) == pytest.approx({(8, 4): 1 / 3, (8, 1): 1 / 3, (4, 1): 1 / 3})
    inner = pair_weights(pairs, inner_head_weight=0.25)
    assert inner == pytest.approx({(8, 4): 2 / 15, (8, 1): 8 / 15, (4, 1): 1 / 3})


def test_adversarial_losses_by_hand():
    """Losses of single positions and pairs are averaged, never their logits."""
    real = constant_scores(2, {(8, 4): 0.0, (8, 1): 1.0, (4, 1): -0.5})
    real[8, 4][:, :, 0] = 3.0  # a quarter of the map
    fake = constant_scores(2, {(8, 4): 0.2, (8, 1): -1.0, (4, 1): 2.0})
    losses = discriminator_loss(StepScores(real, fake))
    on_real = (0.75 * softplus(0) + 0.25 * softplus(-3) + softplus(-1) + softplus(0.5)) / 3
    on_fake = (softplus(0.2) + softplus(-1) + softplus(2)) / 3
    assert losses.keys() == {"loss/discriminator_real", "loss/discriminator_fake", "loss/discriminator"}
    assert float(losses["loss/discriminator_real"]) == pytest.approx(on_real)
    assert float(losses["loss/discriminator_fake"]) == pytest.approx(on_fake)
    assert float(losses["loss/discriminator"]) == pytest.approx(on_real + on_fake)
    for_generator = (softplus(-0.2) + softplus(1) + softplus(-2)) / 3
    assert float(generator_loss(fake)["loss/generator"]) == pytest.approx(for_generator)
    uneven = generator_loss(fake, inner_head_weight=0.25, prefix="loss/aided_")["loss/aided_generator"]
    assert float(uneven) == pytest.approx(
        2 / 15 * softplus(-0.2) + 8 / 15 * softplus(1) + 1 / 3 * softplus(-2)
    )


def test_matching_losses_by_hand_and_without_equal_captions():
    real, fake = constant_scores(3, {(4, 1): 1.0}), constant_scores(3, {(4, 1): -1.0})
    wrong_real = {(4, 1): torch.tensor([0.5, 9.0, -0.5]).double().view(3, 1, 1, 1).requires_grad_()}
    wrong_fake = {(4, 1): torch.tensor([0.1, 9.0, 0.3]).double().view(3, 1, 1, 1).requires_grad_()}
    scores = StepScores(real, fake, wrong_real, wrong_fake)
    losses = discriminator_loss(scores, torch.tensor([True, False, True]), matching_weight=0.5)
    matching_real, matching_fake = (softplus(0.5) + softplus(-0.5)) / 2, (softplus(0.1) + softplus(0.3)) / 2
    assert float(losses["loss/matching_real"].detach()) == pytest.approx(matching_real)
    assert float(losses["loss/matching_fake"].detach()) == pytest.approx(matching_fake)
    total = softplus(-1) + softplus(-1) + 0.5 * (matching_real + matching_fake)
    assert float(losses["loss/discriminator"].detach()) == pytest.approx(total)
    none = discriminator_loss(scores, torch.zeros(3, dtype=torch.bool))
    assert float(none["loss/matching_real"].detach()) == 0
    none["loss/discriminator"].backward()
    assert not wrong_real[4, 1].grad.any()


def test_wrong_captions_are_never_ones_own_nor_equal():
    generator = torch.Generator().manual_seed(3)
    captions = ["a red circle", "a blue square", "A red  circle", "a star"]
    assert caption_ids(captions)[0] == caption_ids(captions)[2]
    shifts: Counter[int] = Counter()
    for _ in range(300):
        index, valid = mismatch(captions, generator)
        shifts[int(index[0])] += 1
        assert (index != torch.arange(4)).all()
        assert sorted(index.tolist()) == [0, 1, 2, 3]
        assert valid.tolist() == [{n, int(i)} != {0, 2} for n, i in enumerate(index)]
    assert shifts.keys() == {1, 2, 3}
    assert min(shifts.values()) > 70
    index, valid = mismatch(["alone"])
    assert (index.tolist(), valid.tolist()) == ([0], [False])


def test_one_pass_gives_all_four_kinds_of_scores():
    discriminator = build()
    real, fake = ({s: torch.randn(4, 3, s, s).double() for s in (8, 4)} for _ in range(2))
    text, index = torch.randn(4, 8).double(), torch.tensor([2, 3, 0, 1])
    scores = score_step(discriminator, real, fake, text, text[index])
    for pyramid, own, wrong in (
        (real, scores.real, scores.mismatched_real),
        (fake, scores.fake, scores.mismatched_fake),
    ):
        features = discriminator.features(pyramid)
        for pair in features.pairs:
            assert relative_difference(own[pair], discriminator.score(features, text)[pair]) < 1e-12
            assert relative_difference(wrong[pair], discriminator.score(features, text[index])[pair]) < 1e-12
    assert score_step(discriminator, real, fake, text, None).mismatched_real is None
    with pytest.raises(ValueError, match="levels differ"):
        score_step(discriminator, real, {8: fake[8]}, text, text[index])


def train_to_match(defect: str, steps: int = 50) -> float:
    """Train on plain coloured pictures named by their captions, where generated ones look exactly like real
    ones, so that only the caption distinguishes. Returns how much higher the right caption scores."""
    torch.manual_seed(4)
    discriminator = Discriminator(SMALL)
    optimiser = torch.optim.AdamW(discriminator.parameters(), lr=0.005, betas=(0.0, 0.99))
    tokens, colours = torch.randn(4, 3, 6), torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1.0]])

    def pictures(labels: torch.Tensor) -> dict[int, torch.Tensor]:
        return box_pyramid(
            0.5 * colours[labels][:, :, None, None] + 0.3 * torch.randn(len(labels), 3, 8, 8), 4
        )

    def embed(labels: torch.Tensor) -> torch.Tensor:
        return discriminator.embed_text(tokens[labels], torch.full((len(labels),), 2))

    for _ in range(steps):
        labels = torch.randint(4, (16,))
        index, valid = mismatch([str(int(n)) for n in labels])
        real_labels = labels.roll(5) if defect == "real pictures with other captions" else labels
        if defect == "captions not rotated":
            index, valid = torch.arange(16), torch.ones(16, dtype=torch.bool)
        scores = score_step(
            discriminator, pictures(real_labels), pictures(labels), embed(labels), embed(labels)[index]
        )
        optimiser.zero_grad()
        discriminator_loss(scores, valid)["loss/discriminator"].backward()
        optimiser.step()
    labels = torch.arange(4).repeat(16)
    with torch.no_grad():
        features = discriminator.features(pictures(labels))
        right = mean_logit(discriminator.score(features, embed(labels)))
        wrong = mean_logit(discriminator.score(features, embed((labels + 1) % 4)))
    return float((right - wrong).mean())


def test_matching_teaches_the_discriminator_to_read():
    """Both defects are those of a widely used implementation (aurora-training notes, section 9)."""
    margins = {
        defect: train_to_match(defect)
        for defect in ("", "captions not rotated", "real pictures with other captions")
    }
    print(margins)
    assert margins[""] > 1
    assert abs(margins["captions not rotated"]) < 0.25
    assert margins["real pictures with other captions"] < 0.25


def penalty_of(discriminator: Discriminator, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    text = discriminator.embed_text(tokens, torch.full((len(tokens),), 2))
    return r1_penalty(discriminator, image, text, inner_head_weight=0.5)


def test_r1_equals_finite_differences():
    discriminator = build()
    image, tokens = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 6).double()
    text = discriminator.embed_text(tokens, torch.tensor([2, 2])).detach()
    steps, expected = torch.eye(192).double().view(192, 3, 8, 8) * 1e-5, 0.0

    def logit(images: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        features = discriminator.features(discriminator.pyramid_of(images))
        return mean_logit(discriminator.score(features, caption.expand(192, -1)), inner_head_weight=0.5)

    with torch.no_grad():
        for x, caption in zip(image, text, strict=True):
            slope = (logit(x + steps, caption) - logit(x - steps, caption)) / 2e-5
            expected += float(slope.square().sum()) / 2
    assert float(penalty_of(discriminator, image, tokens).detach()) == pytest.approx(expected, rel=1e-6)
    assert not image.requires_grad


def test_r1_trains_every_part_as_finite_differences_say():
    discriminator = build()
    image, tokens = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 6).double()
    penalty_of(discriminator, image, tokens).backward()
    untouched = {name for name, p in discriminator.named_parameters() if p.grad is None}
    assert untouched and all(name.endswith("bias") for name in untouched)  # behind which nothing bends
    for part in ("stages.0.attention", "stages.0.from_rgb", "stages.1.down", "score_heads.0", "text.align"):
        parameters = [p for name, p in discriminator.named_parameters() if name.startswith(part)]
        directions = [torch.randn_like(p) for p in parameters]
        both = zip(parameters, directions, strict=True)
        slope = sum(float((p.grad * d).sum()) for p, d in both if p.grad is not None)
        values = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(step * d)
            values.append(float(penalty_of(discriminator, image, tokens).detach()))
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(1e-6 * d)
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4), part


def test_r1_grows_with_the_resolution_of_a_level():
    """||gradient at the image||^2 = (r / R)^2 ||gradient at level r||^2 for levels made by box means."""
    discriminator = build(DiscriminatorConfig(
        resolution=32, channel_base=128, channel_max=8, blocks=1, attention_depth=0, heads=2, input_dim=6,
        text_width=8,
    ))  # fmt: skip
    image = torch.randn(1, 3, 32, 32).double().requires_grad_()
    pyramid, text = discriminator.pyramid_of(image), torch.randn(1, 8).double()
    for side, level in pyramid.items():
        logit = mean_logit(discriminator.score(discriminator.features({side: level}), text)).sum()
        at_image, at_level = torch.autograd.grad(logit, (image, level), retain_graph=True)
        ratio = float(at_image.square().sum() / at_level.square().sum())
        assert ratio == pytest.approx((side / 32) ** 2, rel=1e-9)


def test_weights_of_r1():
    assert gamma_at(0.2048, 64) == 0.2048
    assert gamma_at(0.2048, 32) == pytest.approx(0.0512)
    assert r1_weight(0.2048) == pytest.approx(0.2048 / 2 * 16)
    assert r1_weight(1.0, interval=1) == 0.5


def test_r1_goes_through_an_augmentation():
    discriminator, image = build(), torch.randn(2, 3, 8, 8).double()
    text = torch.randn(2, 8).double()
    plain = r1_penalty(discriminator, image, text)
    same = r1_penalty(discriminator, image, text, transform=lambda pyramid: pyramid)
    blank = r1_penalty(
        discriminator, image, text, transform=lambda p: {side: 0 * level for side, level in p.items()}
    )
    assert float(plain.detach()) == float(same.detach()) > 0
    assert float(blank.detach()) == 0


def test_clip_loss_by_hand():
    images = {4: torch.tensor([[3.0, 4.0], [0.0, 2.0]]), 8: torch.tensor([[1.0, 0.0], [1.0, 1.0]])}
    texts = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 0.5]])  # the last repeats the second
    own = torch.tensor([0, 1])
    duplicates = duplicate_mask(caption_ids(["x", "y"]), caption_ids(["x", "y", "y"]))
    assert duplicates.tolist() == [[True, False, False], [False, True, True]]
    losses = multi_level_clip_loss(images, texts, 2.0, own, duplicates)
    e, half = math.exp, math.sqrt(0.5)
    first = -math.log(e(1.2) / (e(1.2) + 2 * e(1.6)))
    second = -math.log(e(2.0) / (e(0.0) + e(2.0)))  # without its duplicate
    assert float(losses["loss/clip_4"]) == pytest.approx((first + second) / 2, rel=1e-5)
    larger = (-math.log(e(2.0) / (e(2.0) + 2)) - math.log(e(2 * half) / (2 * e(2 * half)))) / 2
    assert float(losses["loss/clip_8"]) == pytest.approx(larger, rel=1e-5)
    assert float(losses["loss/clip"]) == pytest.approx(((first + second) / 2 + larger) / 2, rel=1e-5)
    weighted = multi_level_clip_loss(images, texts, 2.0, own, duplicates, weights={4: 0.0, 8: 3.0})
    assert float(weighted["loss/clip"]) == pytest.approx(larger, rel=1e-5)
    counted = multi_level_clip_loss(images, texts, 2.0, own)
    assert float(counted["loss/clip_4"]) > float(losses["loss/clip_4"])


def test_clip_loss_draws_an_image_to_its_caption():
    image = torch.randn(4, 8, requires_grad=True)
    texts = torch.randn(6, 8)
    losses = multi_level_clip_loss({32: image}, texts, 10.0, torch.arange(4), torch.ones(4, 6).bool())
    assert float(losses["loss/clip"].detach()) == 0  # all captions equal: nothing is wrong
    multi_level_clip_loss({32: image}, texts, 10.0, torch.arange(4))["loss/clip"].backward()
    moved = image.detach() - 0.1 * image.grad
    before, after = (torch.cosine_similarity(x, texts[:4]).mean() for x in (image.detach(), moved))
    assert image.grad.isfinite().all()
    assert after > before


def test_path_length_by_hand():
    """For images linear in w the length is that of the noise drawn back through the map."""
    matrix = torch.randn(2 * 3, 3 * 4 * 4).double()
    wp = torch.randn(5, 2, 3).double().requires_grad_()
    images = (wp.flatten(1) @ matrix).view(5, 3, 4, 4)
    mean = torch.tensor(0.5).double()
    generator = torch.Generator().manual_seed(6)
    penalty, own_mean = path_length_penalty(images, wp, mean, generator=generator)
    noise = torch.randn(5, 48, generator=torch.Generator().manual_seed(6), dtype=torch.float64) / 4
    lengths = (noise @ matrix.t()).view(5, 2, 3).square().sum(2).mean(1).sqrt()
    assert float(own_mean) == pytest.approx(float(lengths.mean()))
    assert float(penalty) == pytest.approx(float((lengths - mean).square().mean()))
    assert not own_mean.requires_grad


def test_path_length_reaches_the_generator():
    weight = torch.randn(3, 3 * 4 * 4, requires_grad=True)
    wp = torch.randn(2, 1, 3, requires_grad=True)
    images = (wp[:, 0] @ weight).tanh().view(2, 3, 4, 4)
    path_length_penalty(images, wp, torch.tensor(0.0))[0].backward()
    assert weight.grad.abs().sum() > 0


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_real_and_generated_pyramids_are_augmented_alike():
    """One random function of a pyramid: equal pyramids stay equal whichever side they come from, one sample's
    draw does not depend on the others' content, and every sample has a draw of its own."""
    image = torch.rand(6, 3, 32, 32).double() * 2 - 1
    real, policy = box_pyramid(image, 4), AugmentationPolicy()
    fake = {side: level.clone() for side, level in real.items()}
    a, b = augment(real, policy, seeded()), augment(fake, policy, seeded())
    assert all(torch.equal(a[side], b[side]) for side in a)
    others = torch.cat((image[:1], torch.randn_like(image[1:])))
    c = augment(box_pyramid(others, 4), policy, seeded())
    assert all(torch.equal(a[side][0], c[side][0]) for side in a)
    same = augment({16: image[:1, :, :16, :16].expand(6, -1, -1, -1)}, policy, seeded())[16]
    assert len({tuple(x.flatten().tolist()) for x in same}) == 6
    off = AugmentationPolicy(brightness=0, saturation=0, contrast=0, translation=0, cutout=0)
    assert all(torch.equal(level, real[side]) for side, level in augment(real, off, seeded()).items())


def test_colour_changes_commute_with_the_pyramid():
    """So a real picture augmented before or after down-sampling is the same one."""
    image = torch.rand(6, 3, 32, 32).double() * 2 - 1
    policy = AugmentationPolicy(translation=0, cutout=0)
    after = augment(box_pyramid(image, 4), policy, seeded())
    before = box_pyramid(augment({32: image}, policy, seeded())[32], 4)
    for side, level in after.items():
        assert relative_difference(level, before[side]) < 1e-12
        assert relative_difference(level, box_pyramid(image, 4)[side]) > 0.1


def test_translation_moves_by_whole_pixels_and_not_at_the_smallest_level():
    image = torch.rand(64, 3, 32, 32).double() + 1
    policy = AugmentationPolicy(brightness=0, saturation=0, contrast=0, cutout=0)
    moved = augment(box_pyramid(image, 4), policy, seeded())
    assert torch.equal(moved[4], box_pyramid(image, 4)[4])
    shifts = set()
    for x, y in zip(image, moved[32], strict=True):
        filled = y.sum(0) > 0
        down, right = (filled.any(1 - axis).nonzero().flatten() for axis in (0, 1))
        top, left = int(down[0]) or int(down[-1]) - 31, int(right[0]) or int(right[-1]) - 31
        shifts |= {top, left}
        inside = y[:, down[0] : down[-1] + 1, right[0] : right[-1] + 1]
        source = x.roll((top, left), (1, 2))[:, down[0] : down[-1] + 1, right[0] : right[-1] + 1]
        assert torch.equal(inside, source)
    assert shifts == set(range(-4, 5))


def test_cutout_blanks_a_square_of_half_the_side_or_its_part_inside():
    image = torch.ones(64, 3, 32, 32)
    policy = AugmentationPolicy(brightness=0, saturation=0, contrast=0, translation=0)
    blank = augment({32: image, 4: torch.ones(64, 3, 4, 4)}, policy, seeded())
    for side, level in blank.items():
        empty = level[:, 0] == 0
        heights, widths = empty.any(2).sum(1), empty.any(1).sum(1)
        assert torch.equal(empty.sum((1, 2)), heights * widths)
        assert int(heights.max()) == int(widths.max()) == side // 2
        assert int(heights.min()) >= side // 4


def test_gradients_flow_through_the_augmentation():
    image = torch.rand(2, 3, 8, 8).double().requires_grad_()

    def augmented(x: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [level.flatten() for level in augment({8: x}, AugmentationPolicy(), seeded()).values()]
        )

    assert torch.autograd.gradcheck(augmented, image, fast_mode=True)
    (gradient,) = torch.autograd.grad(augmented(image).square().sum(), image)
    assert (gradient != 0).float().mean() > 0.3


def test_vision_aided_heads_score_frozen_features():
    heads = VisionAidedHeads([5, 7], text_width=8, width=6)
    maps, text = [torch.randn(3, 5, 8, 8, requires_grad=True), torch.randn(3, 7, 4, 4)], torch.randn(3, 8)
    scores = heads(maps, text)
    assert {pair: tuple(s.shape) for pair, s in scores.items()} == {
        (0, 0): (3, 1, 8, 8),
        (0, 1): (3, 1, 4, 4),
    }
    assert not torch.allclose(scores[0, 0], heads(maps, text.roll(1, 0))[0, 0])
    loss = discriminator_loss(StepScores(scores, scores, scores, scores), prefix="loss/vision_aided_")
    loss["loss/vision_aided_discriminator"].backward()
    assert maps[0].grad.any()
    assert all(p.grad is not None for p in heads.parameters())
    fixed = {name for name, _ in heads.named_buffers()}
    assert fixed == {"projection_0", "projection_1"} and fixed <= heads.state_dict().keys()

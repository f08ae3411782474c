"""Scenes, their captions and the oracle: each is held against the others."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from impasto.data.scenes import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    HELD_OUT_PAIRS,
    LANGUAGES,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    TRAIN_PAIRS,
    Described,
    Relation,
    Requirement,
    Scene,
    SceneObject,
    caption,
    describe,
    parse_prompt,
    phrase,
    read_image,
    reading_of,
    render,
    render_array,
    sample_scene,
    scene_for,
    score_image,
    score_images,
    score_reading,
)
from impasto.data.scenes.shapes import gap_between
from impasto.data.scenes.world import CLEAR_RATIO, GAP, MARGIN

Degrade = Callable[[Image.Image, np.random.Generator], Image.Image]


def untouched(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image


def blurred_and_noisy(image: Image.Image, rng: np.random.Generator, blur: float = 0.5) -> Image.Image:
    """A Gaussian of ``blur`` pixels at 64, in proportion elsewhere, and noise of 4 levels."""
    image = image.filter(ImageFilter.GaussianBlur(blur * image.width / 64))
    noisy = np.asarray(image, dtype=float) + rng.normal(0, 4, (image.height, image.width, 3))
    return Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))


def perfect_share(size: int, count: int, degrade: Degrade, seed: int, **world) -> tuple[float, Counter]:
    """The fraction of scenes, of both splits and languages, that the oracle finds flawless, and the rest."""
    rng = np.random.default_rng(seed)
    wrong: Counter = Counter()
    for index in range(count):
        scene = sample_scene(rng, SPLITS[index % 2], **world)
        text = caption(scene, rng, LANGUAGES[index // 2 % 2])
        score = score_image(degrade(render(scene, size), rng), text)
        if score.overall < 1:
            wrong[f"{scene.category}: {text} {score.reason or score.attributes}"] += 1
    return 1 - wrong.total() / count, wrong


def some_scenes(count: int, seed: int = 0, **world) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, SPLITS[index % 2], **world) for index in range(count)]


# The world and its split


def test_held_out_pairs_take_one_of_every_colour_and_shape():
    assert Counter(colour for colour, _ in HELD_OUT_PAIRS) == Counter(COLOURS.keys())
    assert Counter(shape for _, shape in HELD_OUT_PAIRS) == Counter(SHAPES)
    assert set(TRAIN_PAIRS).isdisjoint(HELD_OUT_PAIRS)
    assert len(TRAIN_PAIRS) + len(HELD_OUT_PAIRS) == len(COLOURS) * len(SHAPES)


@pytest.mark.parametrize("category", CATEGORIES)
def test_splits_hold_what_they_promise(category):
    rng = np.random.default_rng(1)
    for _ in range(150):
        train, unseen = (sample_scene(rng, split, category=category) for split in SPLITS[:2])
        assert not train.is_held_out and train.pairs <= set(TRAIN_PAIRS)
        assert unseen.is_held_out and train.category == unseen.category == category
    assert {sample_scene(rng, "any", category=category).is_held_out for _ in range(50)} == {True, False}


def test_every_choice_occurs_in_training():
    scenes = [scene for scene in some_scenes(3000) if not scene.is_held_out]
    objects = [item for scene in scenes for item in scene.objects]
    assert {(item.colour, item.shape) for item in objects} == set(TRAIN_PAIRS)
    assert {item.texture for item in objects} == set(TEXTURES)
    assert {item.size for item in objects} == set(SIZES)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}
    assert any(scene.inside for scene in scenes) and any(scene.touching for scene in scenes)


def test_a_held_out_combination_is_always_named():
    rng = np.random.default_rng(2)
    for _ in range(300):
        scene = sample_scene(rng, "heldout")
        named = {(item.colour, item.shape) for item in describe(scene, rng).objects}
        assert scene.pairs & HELD_OUT_PAIRS <= named


def test_objects_keep_apart_and_within_the_picture():
    for scene in some_scenes(400, seed=3):
        placed = [(item.shape, item.x, item.y, item.width) for item in scene.objects]
        for index, item in enumerate(scene.objects):
            assert MARGIN < item.x < 1 - MARGIN and MARGIN < item.y < 1 - MARGIN
            for other in range(index):
                gap = gap_between(placed[index], placed[other])
                if {(index, other), (other, index)} & {*scene.inside, *scene.touching}:
                    assert gap < 0
                else:
                    assert gap > GAP * 0.7  # the distance to a corner is a lower bound


def test_an_easier_world_can_be_asked_for():
    easy = {"max_objects": 2, "textures": False, "backgrounds": ("white",), "category": ("color", "spatial")}
    for scene in some_scenes(200, seed=4, **easy):
        assert len(scene.objects) <= 2 and scene.background == "white"
        assert {item.texture for item in scene.objects} == {"solid"}
        assert scene.category in ("color", "spatial")


def test_scenes_and_captions_depend_on_the_generator_alone():
    first, second = (some_scenes(20, seed=5) for _ in range(2))
    assert first == second
    texts = [caption(first[0], np.random.default_rng(6), "zh") for _ in range(2)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "test"}, "'test'"),
        ({"category": "colour"}, "'colour'"),
        ({"max_objects": 5}, "5"),
        ({"backgrounds": ("blue",)}, "blue"),
        ({"category": "spatial", "max_objects": 1}, "spatial"),
    ],
)
def test_impossible_worlds_are_refused_in_one_line(options, named):
    with pytest.raises(ValueError, match=named) as error:
        sample_scene(np.random.default_rng(0), **options)
    assert "\n" not in str(error.value)


# Captions


def check_captions(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for index in range(count):
        scene = sample_scene(rng, SPLITS[index % 2])
        facts = describe(scene, rng)
        assert score_reading(reading_of(scene), facts).overall == 1, "a caption must be true"
        for language in LANGUAGES:
            text = phrase(facts, rng, language, shape_led=0.25)
            assert parse_prompt(text).canonical() == facts.canonical(), text


def test_captions_are_true_and_are_parsed_back_to_their_facts():
    check_captions(1500, seed=7)


@pytest.mark.long
def test_many_captions_are_true_and_are_parsed_back_to_their_facts():
    check_captions(20_000, seed=8)


def test_stated_directions_are_clear():
    rng = np.random.default_rng(9)
    seen = 0
    for _ in range(300):
        scene = sample_scene(rng, category="spatial")
        places = {(item.colour, item.shape): (item.x, item.y) for item in scene.objects}
        facts = describe(scene, rng)
        for relation in facts.relations:
            one, other = facts.objects[relation.subject], facts.objects[relation.object]
            x, y = places[str(one.colour), str(one.shape)]
            other_x, other_y = places[str(other.colour), str(other.shape)]
            along, across = (
                (other_x - x, other_y - y) if relation.kind == "left of" else (other_y - y, other_x - x)
            )
            assert along >= CLEAR_RATIO * abs(across)
            seen += 1
    assert seen >= 300


def test_each_category_states_its_facts():
    rng = np.random.default_rng(10)
    facts = {
        name: [describe(sample_scene(rng, category=name), rng) for _ in range(150)] for name in CATEGORIES
    }
    assert all(item.colour and item.shape for fact in facts["color"] for item in fact.objects)
    assert all(item.shape for fact in facts["shape"] for item in fact.objects)
    assert any(item.colour is None for fact in facts["shape"] for item in fact.objects)
    assert all(any(item.texture for item in fact.objects) for fact in facts["texture"])
    assert all(fact.relations for fact in facts["spatial"])
    assert {relation.kind for fact in facts["non-spatial"] for relation in fact.relations} == {
        "touching",
        "inside",
    }
    assert any(item.count > 1 for fact in facts["non-spatial"] for item in fact.objects)
    assert all(len(fact.objects) > 1 or fact.objects[0].count > 1 for fact in facts["complex"])


RED_DISC, BLUE_STARS, SQUARE = (
    (1, "red", "circle"),
    (2, "blue", "star", "striped", "small"),
    (1, None, "square"),
)


@pytest.mark.parametrize(
    ("text", "objects", "relations", "background"),
    [
        ("red circle", [RED_DISC], [], None),
        ("A grey background with two tiny striped blue stars", [BLUE_STARS], [], "gray"),
        ("A pair of little stripy blue stars and one square, on black.", [BLUE_STARS, SQUARE], [], "black"),
        ("a red circle to the right of the square", [RED_DISC, SQUARE], [("left of", 1, 0)], None),
        (
            "A disc and a box. The disc is red; the box is below the disc.",
            [RED_DISC, SQUARE],
            [("above", 0, 1)],
            None,
        ),
        ("方块里面有一个红色的圆，背景是白色", [SQUARE, RED_DISC], [("inside", 1, 0)], "white"),
        ("两个小的带条纹的蓝色星星", [BLUE_STARS], [], None),
    ],
)
def test_prompts_as_people_write_them(text, objects, relations, background):
    described = tuple(Described(*item) for item in objects)
    assert parse_prompt(text) == Requirement(
        described, tuple(Relation(*item) for item in relations), background
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a red dragon", "'dragon'"),
        ("一只猫", "'一'|'猫'"),
        ("a black circle", "'black' can only colour the background"),
        ("黑色的圆形", "'黑色' can only colour the background"),
        ("red circles", "'circles'"),
        ("a red circle left of", "too early"),
        ("a red blue circle", "'blue'"),
        ("a circle and a circle. the circle is red", "several objects"),
        ("a circle. the circle is above the circle", "itself"),
        ("four stars and a circle", "5 objects"),
        ("a circle on black, white background", "two backgrounds"),
        ("touching", "'touching'|too early"),
        ("", "names no object"),
    ],
)
def test_prompts_that_cannot_be_read_say_why_in_one_line(text, named):
    with pytest.raises(ValueError, match=named) as error:
        parse_prompt(text)
    assert "\n" not in str(error.value)


def test_a_perfect_painter_paints_every_caption():
    rng = np.random.default_rng(11)
    for index in range(150):
        text = caption(sample_scene(rng, SPLITS[index % 2]), rng, LANGUAGES[index // 2 % 2])
        scene = scene_for(text, rng)
        assert score_reading(reading_of(scene), parse_prompt(text)).overall == 1, text
        assert score_image(render(scene, 64), text).overall == 1, text


@pytest.mark.parametrize("text", ["a star inside a ring", "a large square inside a small circle"])
def test_what_no_scene_can_show_is_refused(text):
    with pytest.raises(ValueError, match=r"ring cannot hold|do not fit"):
        scene_for(text, np.random.default_rng(0))


# Pictures


@pytest.mark.parametrize("size", [16, 32, 64, 100, 256])
def test_pictures_have_the_size_asked_for_and_are_antialiased(size):
    scene = next(scene for scene in some_scenes(50) if scene.objects[0].shape == "circle")
    pixels = render_array(scene, size)
    assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
    assert render(scene, size).size == (size, size)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1 + len(scene.objects)
    with pytest.raises(ValueError, match="4 pixels"):
        render(scene, 4)


def test_a_large_picture_averages_to_a_small_one():
    for scene in some_scenes(20, seed=12, textures=False):
        large = render_array(scene, 256).reshape(32, 8, 32, 8, 3).mean(axis=(1, 3))
        difference = np.abs(large - render_array(scene, 32))
        assert difference.mean() < 1.0, "antialiasing must cover what supersampling covers"


# The oracle


def test_oracle_on_rendered_scenes_at_64():
    share, wrong = perfect_share(64, 250, untouched, seed=13)
    assert share >= 0.99, wrong


def test_oracle_with_blur_and_noise_at_64_and_128():
    for size, count in ((64, 250), (128, 100)):
        share, wrong = perfect_share(size, count, blurred_and_noisy, seed=14)
        assert share >= 0.99, wrong


def test_oracle_at_32_up_to_two_objects_without_textures():
    for degrade in (untouched, blurred_and_noisy):
        share, wrong = perfect_share(32, 250, degrade, seed=15, max_objects=2, textures=False)
        assert share >= 0.97, wrong


def single_right(count: int, degrade: Degrade, seed: int) -> float:
    """How often colour and shape of a single object are read at 16 pixels."""
    rng = np.random.default_rng(seed)
    right = 0
    for index in range(count):
        scene = sample_scene(rng, SPLITS[index % 2], max_objects=1, textures=False)
        seen = read_image(degrade(render(scene, 16), rng)).objects
        right += [(item.colour, item.shape) for item in seen] == [
            (scene.objects[0].colour, scene.objects[0].shape)
        ]
    return right / count


def test_oracle_reads_a_single_object_at_16():
    assert single_right(300, untouched, seed=16) >= 0.97
    assert single_right(300, blurred_and_noisy, seed=17) >= 0.97


def shuffled_mean(count: int, seed: int) -> tuple[float, float]:
    """Mean overall score and share of perfect scores of pictures under captions of other scenes."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, SPLITS[index % 2]) for index in range(count)]
    texts = [caption(scene, rng) for scene in scenes]
    summary = score_images([render(scene, 64) for scene in scenes], texts[1:] + texts[:1])
    return summary.overall, summary.perfect


def test_mismatched_captions_score_near_zero():
    overall, perfect = shuffled_mean(200, seed=18)
    assert overall < 0.08 and perfect <= 0.02


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "least", "world"),
    [(64, 0.99, {}), (128, 0.99, {}), (256, 0.99, {}), (32, 0.97, {"max_objects": 2, "textures": False})],
)
@pytest.mark.parametrize("degrade", [untouched, blurred_and_noisy])
def test_oracle_on_thousands(size, least, world, degrade):
    share, wrong = perfect_share(size, 3000, degrade, seed=19, **world)
    print(f"{size} px, {degrade.__name__}: {share:.4f} of 3000 perfect")
    assert share >= least, wrong


@pytest.mark.long
def test_oracle_reads_thousands_of_single_objects_at_16():
    for degrade in (untouched, blurred_and_noisy):
        share = single_right(3000, degrade, seed=20)
        print(f"16 px, {degrade.__name__}: {share:.4f} of 3000 right")
        assert share >= 0.97


@pytest.mark.long
def test_thousands_of_mismatched_captions_score_near_zero():
    overall, perfect = shuffled_mean(3000, seed=21)
    print(f"mismatched: overall {overall:.4f}, perfect {perfect:.4f}")
    assert overall < 0.06 and perfect < 0.01


def test_oracle_stands_softness_and_shifted_colours():
    def shifted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = np.asarray(image, dtype=float) * rng.uniform(0.9, 1.05, 3) + rng.uniform(-8, 8, 3)
        return blurred_and_noisy(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), rng, blur=0.8)

    share, wrong = perfect_share(64, 150, shifted, seed=22)
    assert share >= 0.95, wrong


def object_at(
    colour: str, shape: str, x: float, y: float, size: str = "small", texture: str = "solid"
) -> SceneObject:
    return SceneObject(colour, shape, texture, size, x, y, SIZES[size], COLOURS[colour])


def picture(*objects: SceneObject, background: str = "white") -> Image.Image:
    return render(Scene(objects, background, BACKGROUNDS[background], "complex"), 64)


RED_CIRCLE, BLUE_STAR = object_at("red", "circle", 0.25, 0.5), object_at("blue", "star", 0.75, 0.5)


def test_score_counts_what_is_right():
    both = picture(RED_CIRCLE, BLUE_STAR)
    right = score_image(both, "a red circle to the left of a blue star on a white background")
    assert (right.binding, right.relations, right.counts, right.background, right.overall) == (1, 1, 1, 1, 1)
    swapped = score_image(both, "a blue circle to the left of a red star")
    assert (swapped.binding, swapped.relations, swapped.counts, swapped.overall) == (0, 0, 0, 0)
    assert swapped.attributes == {"colour": 0, "shape": 1} or swapped.attributes == {"colour": 1, "shape": 0}
    half = score_image(both, "a red circle and a green star")
    assert (half.binding, half.counts) == (0.5, 0.5)
    wrong_way = score_image(both, "a red circle to the right of a blue star")
    assert (wrong_way.binding, wrong_way.relations, wrong_way.relations_stated) == (1, 0, 1)
    assert wrong_way.overall == pytest.approx((2 + 1) / 4)
    elsewhere = score_image(both, "a red circle and a blue star on a black background")
    assert (elsewhere.binding, elsewhere.background) == (1, 0)


def test_extra_and_missing_objects_cost():
    extra = score_image(picture(RED_CIRCLE, BLUE_STAR), "a red circle")
    assert (extra.binding, extra.counts) == (1, 0.5) and extra.overall < 1
    missing = score_image(picture(RED_CIRCLE), "two red circles")
    assert (missing.binding, missing.counts) == (0.5, 0)


def test_attributes_are_told_apart():
    striped = picture(object_at("green", "square", 0.5, 0.5, "large", "striped"), background="gray")
    assert score_image(striped, "a large striped green square").overall == 1
    assert score_image(striped, "a small striped green square").binding == 0
    assert score_image(striped, "a dotted green square").attributes == {"texture": 0, "colour": 1, "shape": 1}


def test_contact_and_containment_are_seen():
    touching = picture(object_at("red", "circle", 0.36, 0.5), object_at("blue", "circle", 0.63, 0.5))
    apart = picture(object_at("red", "circle", 0.3, 0.5), object_at("blue", "circle", 0.68, 0.5))
    inside = picture(object_at("yellow", "circle", 0.5, 0.5, "large"), object_at("purple", "ring", 0.5, 0.5))
    assert score_image(touching, "a red circle touching a blue circle").overall == 1
    assert score_image(apart, "a red circle touching a blue circle").relations == 0
    assert score_image(inside, "a purple ring inside a yellow circle").overall == 1
    assert score_image(inside, "a purple ring touching a yellow circle").relations == 0


def hopeless(kind: str, size: int, rng: np.random.Generator) -> Image.Image:
    if kind == "noise":
        pixels = rng.integers(0, 256, (size, size, 3))
    elif kind == "blank":
        pixels = np.broadcast_to(rng.integers(0, 256, 3), (size, size, 3))
    elif kind == "ramp":
        pixels = np.broadcast_to(np.linspace(0, 255, size)[None, :, None], (size, size, 3))
    elif kind == "specks":
        pixels = np.where(rng.random((size, size, 1)) < 0.2, [220, 30, 35], [248, 248, 248])
    elif kind == "framed":
        pixels = np.full((size, size, 3), 12)
        pixels[1:-1, 1:-1] = COLOURS["blue"]
    else:
        patches = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((size, size))
        pixels = np.full((size, size, 3), 248)
        edge = size // 8
        pixels[edge:-edge, edge:-edge] = np.asarray(patches)[edge:-edge, edge:-edge]
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [8, 9, 15, 16, 32, 64, 100])
@pytest.mark.parametrize("kind", ["noise", "blank", "ramp", "specks", "framed", "patches"])
def test_no_picture_makes_the_oracle_fail(kind, size):
    rng = np.random.default_rng(size)
    for _ in range(5):
        score = score_image(hopeless(kind, size, rng), "a small striped red circle inside a blue square")
        for value in (score.binding, score.relations, score.counts, score.background, score.overall):
            assert 0 <= value <= 1
        assert score.overall < 0.5
        if not score.readable:
            assert score.overall == 0 and score.reason
        if kind in ("noise", "blank", "ramp"):
            assert not score.readable


@pytest.mark.parametrize(
    ("mode", "size"), [("L", (64, 64)), ("RGBA", (40, 64)), ("P", (20, 20)), ("RGB", (1, 1))]
)
def test_any_kind_of_picture_is_taken(mode, size):
    assert not score_image(Image.new(mode, size), "a red circle").readable


def test_a_summary_counts_the_unreadable():
    pictures = [picture(RED_CIRCLE), Image.new("RGB", (64, 64), "white"), picture(BLUE_STAR)]
    summary = score_images(pictures, ["a red circle", "a red circle", "a red star on white"])
    assert (summary.total, summary.unreadable) == (3, 1)
    assert summary.perfect == pytest.approx(1 / 3)
    assert summary.attributes == {"colour": pytest.approx(1 / 3), "shape": pytest.approx(2 / 3)}
    assert np.isnan(summary.relations) and summary.background == 1
    with pytest.raises(ValueError, match="1 pictures and 0 prompts"):
        score_images(pictures[:1], [])

"""T2I-CompBench's formulas on detections made by hand, and the command on pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

import impasto.metrics.alignment as alignment
import impasto.metrics.compbench_plus as plus
from impasto.cli import main
from impasto.config import ConfigError
from impasto.metrics.compbench import (
    Detection,
    attribute_score,
    complex_score,
    kind_of_prompt,
    position_score,
    questions,
    spatial_score,
)
from impasto.metrics.parses import Parser
from impasto.vision.blip import BlipAnswers
from tests.metrics.test_alignment import ColourModel
from tests.metrics.test_picture_sets import write_pictures

LEFT, RIGHT = (0.0, 200.0, 100.0, 300.0), (300.0, 210.0, 400.0, 310.0)
ABOVE = (10.0, 0.0, 110.0, 100.0)


def box(label, where, score=0.8):
    return Detection(label, score, where)


def test_questions_of_the_versions():
    chunks = ["a red car", "the left", "a blue house", "top", *[f"thing {n}" for n in range(9)]]
    assert (
        questions(chunks)[:3] == ["a red car?", "a blue house?", "thing 0?"] and len(questions(chunks)) == 8
    )
    assert questions(chunks, "old") == ["a red car?", "the left?"]
    assert attribute_score([0.5, 0.5, 0.8]) == pytest.approx(0.2)
    assert attribute_score([]) == 1.0 and attribute_score([], "fixed") is None


@pytest.mark.parametrize(
    ("place", "first", "second", "expected"),
    [
        ("on the left of", LEFT, RIGHT, 1),
        ("on the right of", LEFT, RIGHT, 0),
        ("on the right of", RIGHT, LEFT, 1),
        ("on the top of", ABOVE, LEFT, 1),
        ("on the bottom of", LEFT, ABOVE, 1),
        ("on the top of", LEFT, RIGHT, 0),  # to the side, mostly
        ("on the left of", (0.0, 0.0, 100.0, 100.0), (50.0, 0.0, 150.0, 100.0), 0.1 / (1 / 3)),  # overlapping
        ("next to", LEFT, RIGHT, 1),  # 10 px apart in height
        ("near", (0.0, 0.0, 10.0, 10.0), (300.0, 200.0, 310.0, 210.0), 150 / 300),
        (None, LEFT, RIGHT, 0),
        ("on the left of", LEFT, LEFT, 0),
    ],
)
def test_positions(place, first, second, expected):
    for variant in ("official", "fixed"):
        found = position_score(place, box("a", first), box("b", second), variant)
        assert found == pytest.approx(expected)


def test_spatial_scores():
    seen = [box("person", LEFT, 0.9), box("car", RIGHT, 0.7), box("car", LEFT, 0.6)]
    prompt = "a girl on the left of a car"
    assert spatial_score(prompt, ("girl", "car"), seen) == pytest.approx(0.25 * 1.6 + 0.5)
    assert spatial_score("a car on the left of a girl", ("car", "girl"), seen) == 0  # 0.4 is below a half
    assert spatial_score(prompt, ("girl", "dog"), seen) == 0 and spatial_score(prompt, None, seen) == 0
    assert spatial_score(prompt, ("girl", "car"), []) == 0
    stacked = [box("cat", ABOVE, 1.0), box("bed", LEFT, 1.0)]
    on_top = "a cat on top of a bed"
    assert (
        spatial_score(on_top, ("cat", "bed"), stacked) == 0.5
    )  # the evaluator knows the phrase, not the place
    assert spatial_score(on_top, ("cat", "bed"), stacked, "fixed") == 1.0


NAMES = {"dogs": "dog", "cats": "cat", "fire hydrants": "fire hydrant", "sheep": "sheep", "ships": "ship"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("two dogs and a cat", [("dog", 2), ("cat", 1)]),
        ("three fire hydrants, one ship.", [("fire hydrant", 3), ("ship", 1)]),
        ("a sheep near four sheep", [("sheep", 1), ("sheep", 4)]),
        ("a red dog and nine cats", []),  # only what stands directly after a number from one to eight
    ],
)
def test_what_a_prompt_counts(prompt, expected):
    assert plus.counted_objects(prompt, NAMES) == expected


def test_numeracy_by_hand():
    """Half of each object for being there, half for its number; a box that repeats another does not count."""
    wanted = [("dog", 2), ("ship", 1)]
    again = (0.0, 200.0, 101.0, 300.0)
    seen = [box("dog", LEFT), box("dog", again), box("dog", RIGHT), box("boat", ABOVE)]
    assert plus.numeracy_score(wanted, seen) == 1
    assert plus.numeracy_score(wanted, seen[:2]) == pytest.approx((0.5 + 0) / 2)
    assert plus.numeracy_score(wanted, [*seen, box("boat", RIGHT)]) == pytest.approx((1 + 0.5) / 2)
    inside = (10.0, 210.0, 30.0, 230.0)  # wholly within another box of the name
    assert plus.numeracy_score([("dog", 1)], [box("dog", LEFT), box("dog", inside)]) == 1
    assert plus.numeracy_score([("dog", 1)], [box("hot dog", LEFT)]) == 1  # a label with the name in it
    assert plus.numeracy_score([], seen) is None and plus.numeracy_score(wanted, []) == 0


def test_depth_by_hand():
    near, far = (0.0, 0.0, 200.0, 100.0), (40.0, 0.0, 240.0, 100.0)  # overlap 160 of 240: two thirds
    depth = np.zeros((479, 479))
    depth[:100, :200], depth[:100, 200:240] = 9, 1
    seen = [box("cat", near, 1.0), box("sofa bed", far, 0.8)]

    def score(prompt, boxes=seen, of=depth, variant="fixed"):
        return plus.depth_score(prompt, ("cat", "bed"), boxes, of, variant)

    assert score("a cat in front of a bed") == pytest.approx(0.25 * 1.8 + 0.5)
    assert score("a cat behind a bed") == pytest.approx(0.45) == score("a cat beside a bed")
    assert score("a cat behind a bed", of=9 - depth) == pytest.approx(0.95)
    assert score("a cat in front of a bed", of=depth[::2, ::2]) == pytest.approx(0.95)  # of any size
    apart = [seen[0], box("bed", (150.0, 0.0, 350.0, 100.0), 0.8)]  # overlap 50 of 350
    assert score("a cat hidden by a bed", apart, 9 - depth) == pytest.approx(0.45 + 0.5 * (1 / 7) / 0.5)
    assert score("a cat behind a bed", seen[:1]) == 0.25
    # The evaluator reads the map with its axes exchanged: of its transpose it gives what "fixed" gives.
    assert score("a cat in front of a bed", of=depth.T, variant="official") == pytest.approx(0.95)
    twice = [box("cat", RIGHT, 0.5), *seen]  # and takes the last cat before both were met
    assert score("a cat in front of a bed", twice, depth.T, "official") == pytest.approx(0.95)
    assert score("a cat in front of a bed", twice) == pytest.approx(0.25 * 1.3)


def test_parses_by_spacy(tmp_path):
    spacy = pytest.importorskip("spacy")

    @spacy.language.Language.component("by_hand")
    def by_hand(document):
        kinds = {"a": ("DET", "det"), "red": ("ADJ", "amod"), "on": ("ADP", "prep")}
        for token in document:
            token.pos_, token.dep_ = kinds.get(token.text, ("NOUN", "pobj"))
            nouns = [other for other in document if other.i > token.i and other.text not in kinds]
            token.head = nouns[0] if token.text in ("a", "red") else token
        return document

    pipeline = spacy.blank("en")
    pipeline.add_pipe("by_hand")
    pipeline.to_disk(tmp_path / "pipeline")
    found = Parser(str(tmp_path / "pipeline"))("a red car on a house")
    assert found["chunks"] == ["a red car", "a house"] and found["objects"] == ["car", "house"]
    assert found["without_adjectives"] == "a car on a house"
    with pytest.raises(ConfigError, match=r"spacy=nothing is no pipeline"):
        Parser("nothing")


def test_three_in_one():
    lists = (["The red cat is on the mat.\n"], ["a dog runs"])
    assert kind_of_prompt("the red cat is on the mat. And more", *lists) == "spatial"
    assert kind_of_prompt("A dog runs.", *lists) == "action" and kind_of_prompt("other", *lists) == "both"
    assert complex_score("spatial", 0.4, 1.0, 0.1) == pytest.approx(0.7)
    assert complex_score("action", 0.4, 1.0, 0.1) == pytest.approx(0.25)
    assert complex_score("both", 0.4, 1.0, 0.1) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A random BLIP of no size, with a tokeniser of a few words."""
    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "a", "red", "car", "house", "?"]
    (folder / "words.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    text = {
        "vocab_size": len(words) + 2, "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": len(words), "pad_token_id": 0,
        "sep_token_id": 3,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20 if parameter.dim() > 1 else 1)  # answers that differ
    model.save_pretrained(folder / "model")
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder / "model")
    return folder / "model"


def test_answers_are_the_probability_of_yes(blip):
    asked = BlipAnswers.from_directory(blip)
    image = torch.rand(1, 3, 40, 40) * 2 - 1
    one, other = asked.answer(image, ["a red car?", "a house?"])
    assert 0 < one < 1 and abs(one - other) > 1e-4
    assert asked.answer(image, ["a house?"]) == [other]
    assert asked.answer(-image, ["a house?"]) != [other]  # it looks
    assert asked.answer(image, []) == []
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        BlipAnswers.from_directory(blip.parent)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "load_image_text_model", lambda spec: ColourModel())
    prompts = ["a red car on the left of a house", "a blue car"]
    write_pictures(tmp_path / "pictures", 4, side=32, prompts=prompts)
    parses = [
        {"prompt": prompts[0], "chunks": ["a red car", "the left", "a house"], "objects": ["car", "house"]},
        {"prompt": prompts[1], "chunks": [], "objects": None},
    ]
    (tmp_path / "parses").write_text("\n".join(map(json.dumps, parses)))
    seen = [{"label": "car", "score": 1, "box": LEFT}, {"label": "house", "score": 1, "box": RIGHT}]
    rows = [{"picture": f"{n:06d}.png", "objects": seen} for n in range(4)]
    (tmp_path / "boxes").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "spatial.txt").write_text(prompts[0] + "\n")
    (tmp_path / "action.txt").write_text("x\n")
    (tmp_path / "objects.txt").write_text("car - cars\nhouse - houses\n")
    for n in range(4):
        (tmp_path / "depth").mkdir(exist_ok=True)
        Image.new("L", (32, 32), 9 * n).save(tmp_path / "depth" / f"{n:06d}.png")
    return tmp_path


def run(capsys, files, category, *settings, scorer=False):
    options = [word for setting in (f"category={category}", *settings) for word in ("--set", setting)]
    place = ["evaluate", str(files / "pictures"), "--protocol", "compbench", "--out", str(files / "report")]
    status = main([*place, *options, *(["--scorer", "clip:x"] if scorer else [])])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_categories_on_pictures(files, capsys, blip):
    parses, boxes = f"parses={files / 'parses'}", f"detections={files / 'boxes'}"
    status, printed, errors = run(capsys, files, "color", parses, f"vqa={blip}", "variant=fixed")
    assert status == 0 and "(fixed formulas)" in printed and "2 left out" in printed, errors
    status, printed, _ = run(capsys, files, "spatial", parses, boxes, "detector=unidet-rs200")
    assert status == 0 and "spatial (official@6d58bed): 0.500 [0.000, 1.000] over 2 prompts" in printed
    status, printed, _ = run(capsys, files, "spatial", parses, boxes, "detector=owl")
    assert status == 0 and "substitute:owl, official formulas" in printed
    maps = [f"depth={files / 'depth'}", "depth_model=dpt-hybrid", "detector=unidet-r50"]
    status, printed, errors = run(capsys, files, "3d_spatial", parses, boxes, *maps)
    assert status == 0 and "3d_spatial (official@ed5367e): 0.250" in printed, errors  # of no place, 0.5 and 0
    status, printed, _ = run(
        capsys, files, "numeracy", boxes, "detector=owl", f"objects={files / 'objects.txt'}"
    )
    assert status == 0 and "numeracy (substitute:owl, official formulas): 1.000" in printed
    status, printed, _ = run(capsys, files, "non_spatial", scorer=True)
    assert status == 0 and "through transformers" in printed
    lists = [f"spatial_prompts={files / 'spatial.txt'}", f"action_prompts={files / 'action.txt'}"]
    every = [parses, boxes, "detector=owl", f"vqa={blip}", *lists]
    assert run(capsys, files, "complex", *every, scorer=True)[0] == 0
    rows = json.loads((files / "report" / "report.json").read_text())["rows"]
    assert rows[0]["score"] == pytest.approx((rows[0]["vqa"] + rows[0]["spatial"]) / 2)
    assert rows[1]["vqa"] == 1 and rows[1]["spatial"] == 0
    assert rows[1]["score"] == pytest.approx((1 + rows[1]["clip"]) / 3)


def test_mistakes_are_named(files, capsys, blip):
    parses = f"parses={files / 'parses'}"
    (files / "bad").write_text('{"picture": "000000.png", "objects": [{"label": "x"}]}')
    for arguments, message in (
        (("color",), "needs --set parses="),
        (("color", parses), "needs --set vqa="),
        (("spatial", parses, f"detections={files / 'boxes'}"), "needs --set detector="),
        (("spatial", parses, f"detections={files / 'bad'}", "detector=x"), "label, score and box"),
        (
            ("spatial", f"parses={files / 'bad'}", f"detections={files / 'bad'}", "detector=x"),
            "line 1 is no JSON",
        ),
        (("3d_spatial", parses, f"detections={files / 'boxes'}", "detector=x"), "needs --set depth="),
        (
            (
                "3d_spatial",
                parses,
                f"detections={files / 'boxes'}",
                "detector=x",
                f"depth={files}",
                "depth_model=y",
            ),
            "no depth map of '000000.png'",
        ),
        (
            ("numeracy", f"detections={files / 'boxes'}", "detector=x", f"objects={files / 'action.txt'}"),
            "line 1 should be 'singular - plural'",
        ),
        (("spatial", "parses=x", "spacy=y"), "parses= or spacy=, not both"),
        (("non_spatial",), "needs --scorer clip:DIR"),
        (("colour",), "category"),
        (("non_spatial", "colour=1"), "unknown configuration key"),
    ):
        status, _, errors = run(capsys, files, *arguments)
        assert status == 2 and message in errors and len(errors.strip().splitlines()) == 1, errors


def test_a_model_draws_the_prompts_itself(files, capsys):
    """Of either family, as it would for any protocol; the file names are those that detections go by."""
    (files / "prompts.txt").write_text("a car on the left of a house\n")
    parse = {"prompt": "a car on the left of a house", "chunks": [], "objects": ["car", "house"]}
    (files / "own").write_text(json.dumps(parse))
    settings = [
        "category=spatial",
        f"parses={files / 'own'}",
        f"detections={files / 'boxes'}",
        "detector=owl",
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    place = [
        "--protocol",
        "compbench",
        "--out",
        str(files / "drawn"),
        "--captions",
        str(files / "prompts.txt"),
    ]
    assert main(["evaluate", "aurora-debug", *place, *options, "--count", "2"]) == 0
    assert "1.000 [1.000, 1.000] over 1 prompts, 2 pictures" in capsys.readouterr().out
    assert len(list((files / "drawn/pictures").glob("*.png"))) == 2
    assert main(["evaluate", "mars-nano", *place[:4], *options]) == 2
    assert "needs --captions FILE" in capsys.readouterr().err
    assert main(["evaluate", str(files / "pictures"), *place, *options]) == 2
    assert "of pictures, none" in capsys.readouterr().err

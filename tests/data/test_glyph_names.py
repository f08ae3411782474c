"""Open Glyphs' concepts, captions and splits."""

from impasto.data.glyphs import sources
from impasto.data.glyphs.captions import captions_of, phrase, phrase_chinese
from impasto.data.glyphs.concepts import Concepts
from impasto.data.glyphs.splits import CELLS, CONCEPTS, TRAIN, fraction, split_cells


def test_splits_keep_what_is_held_out_out_of_train():
    concepts, styles = [f"concept {n}" for n in range(400)], [f"style {n}" for n in range(6)]
    cells = [(c, s) for c in concepts for s in styles if fraction("there", c, s) < 0.7]
    found = split_cells([cells])
    trained = {concept for (concept, _), split in found.items() if split == TRAIN}
    for (concept, style), split in found.items():
        assert (split == CONCEPTS) == (concept not in trained)
        if split == CELLS:
            assert any(found.get((concept, other)) == TRAIN for other in styles if other != style)
    shares = {
        split: sum(value == split for value in found.values()) / len(found) for split in set(found.values())
    }
    assert 0.02 < shares[CONCEPTS] < 0.09 and 0.02 < shares[CELLS] < 0.08
    more = split_cells([cells, [(c, "another") for c in concepts]])
    assert {cell: more[cell] for cell in found} == found
    assert found == split_cells([list(reversed(cells))])


def test_names_lead_to_concepts():
    table = [
        {"label": "umbrella on ground", "hexcode": "26F1", "group": 5, "tags": ["rain"]},
        {"label": "man: beard", "hexcode": "1F9D4-200D-2642-FE0F", "group": 1,
         "skins": [{"label": "man: dark skin tone, beard", "hexcode": "1F9D4-1F3FF-200D-2642-FE0F"}]},
        {"label": "flag: Türkiye", "hexcode": "1F1F9-1F1F7", "group": 9},
        {"label": "turkey", "hexcode": "1F983", "group": 3},
        {"label": "regional indicator Q", "hexcode": "1F1F6"},
    ]  # fmt: skip
    concepts = Concepts(table, [], [("26F1", "UMBRELLA ON GROUND"), ("26F1", "beach_umbrella")])
    for name in ("umbrella-on-ground", "umbrellaonground", "beachumbrella", "umbrella-on-ground-2"):
        assert concepts.find(name).key == "26F1", name
    assert concepts.find("anything", "26f1-fe0f").key == "26F1"
    bearded = concepts.find("man-beard-dark")
    assert (bearded.key, bearded.base) == ("1F9D4-1F3FF-200D-2642", "1F9D4-200D-2642")
    assert concepts.find("flag-for-turkey").key == "1F1F9-1F1F7" and concepts.find("turkey").key == "1F983"
    assert concepts.find("letter-q").english == "regional indicator Q"
    own = concepts.find("odd-hat-medium-light-skin-tone")
    assert own.base == concepts.find("odd-hat").key and own.english == "odd hat: medium-light skin tone"
    assert concepts.find("turkey-dark-skin-tone").base == "1F983", "one concept, also in a tone of its own"
    assert concepts.find("groundumbrella", run_together=True).english == "ground umbrella"
    titled = concepts.titled("Beach umbrella", chinese="伞", group=7)
    assert (titled.english, titled.chinese, titled.base) == ("Beach umbrella", "伞", "26F1"), (
        "but not CLDR's name"
    )
    assert concepts.titled("Turkey").key == "1F983"
    assert concepts.find("grxndumbrella", run_together=True) is None and concepts.find("twitter") is None


def test_captions():
    phrases = {
        ("red apple", 4): "a red apple", ("orange", 4): "an orange", ("unicorn", 3): "a unicorn",
        ("scissors", 7): "scissors", ("cooked rice", 4): "cooked rice", ("hourglass", 5): "an hourglass",
        ("flag: Chile", 9): "the flag of Chile", ("man running", 1): "a man running",
        ("woman: light skin tone, red hair", 1): "a woman with light skin tone and red hair",
        ("men with bunny ears", 1): "men with bunny ears", ("peace symbol", 8): "peace symbol",
        ("man: bald", 1): "a bald man", ("family: man, woman, boy", 1): "a family of man, woman and boy",
    }  # fmt: skip
    for (name, group), expected in phrases.items():
        assert phrase(name, group) == expected
    assert phrase_chinese("女老师: 中等-浅肤色") == "中等偏浅肤色的女老师"
    assert phrase_chinese("旗: 智利") == "智利旗" and phrase_chinese("红苹果") == "红苹果"
    apple = Concepts(
        [{"label": "red apple", "hexcode": "1F34E", "tags": ["apple", "fruit", "red", "ripe"], "group": 4}],
        [{"label": "红苹果", "hexcode": "1F34E", "tags": ["水果", "苹果"]}], [],
    ).by_code["1F34E"]  # fmt: skip
    texts = {one.style: captions_of(apple, one, ("pink", "粉色")) for one in sources.SETS}
    assert texts["fluent-3d"][:2] == (("a red apple, 3d style", "en"), ("red apple", "en"))
    for found in texts.values():
        assert ("红苹果", "zh") in found and len(found) == len(set(found)) >= 8
        assert any("pink background" in text for text, _ in found) and any(
            "粉色" in text for text, _ in found
        )
        assert any("fruit" in text and "apple, apple" not in text for text, _ in found)

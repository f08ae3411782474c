"""Sets of pictures: what is read, what is refused, what is computed once."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

import impasto.metrics.feature_cache as feature_cache
from impasto.config import ConfigError
from impasto.data.records import DataError
from impasto.metrics.comparison import check_sets, compare
from impasto.metrics.extractors import Extractor, load_extractor
from impasto.metrics.feature_cache import cache_key, cached_features, read_cache
from impasto.metrics.picture_sets import measure_features
from impasto.metrics.picture_sources import open_pictures
from impasto.pictures import save_png


class TinyExtractor:
    """Random projections of a coarse picture; counts what it is shown."""

    name, distance = "tiny", "FD-Tiny"

    def __init__(self, seed: int = 0) -> None:
        self.fingerprint, self.settings, self.seen = f"{seed:064x}", {"side": 8, "resize": "area"}, 0
        self.networks = {"tiny": f"{seed + 16:064x}"}
        self._matrix = torch.randn(192, 6, generator=torch.Generator().manual_seed(seed))

    def features(self, images):
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) @ self._matrix


def write_pictures(folder, count, *, side=16, seed=0, prompts=None):
    """Noise of its own for each; returns the folder."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        settings = {"prompt": prompts[index % len(prompts)]} if prompts else None
        save_png(Image.fromarray(pixels), folder / f"{index:06d}.png", settings)
    return folder


def test_features_are_those_of_the_pictures_in_order(tmp_path):
    folder = write_pictures(tmp_path / "a", 11)
    extractor = TinyExtractor()
    assert isinstance(extractor, Extractor)
    found = measure_features(open_pictures(str(folder)), extractor, batch=4, workers=3)
    one = Image.open(folder / "000007.png")
    pixels = torch.from_numpy(np.array(one)).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.allclose(found.features[7], extractor.features(pixels)[0], atol=1e-5)
    assert found.names == tuple(f"{n:06d}.png" for n in range(11)) and found.size == (16, 16)
    again = measure_features(open_pictures(str(folder)), extractor, batch=11, workers=1)
    assert torch.allclose(again.features, found.features, atol=1e-5) and again.content == found.content


def test_bad_pictures_are_counted_and_not_replaced(tmp_path):
    folder = write_pictures(tmp_path / "a", 6)
    (folder / "000002.png").write_bytes(b"no picture")
    whole = (folder / "000004.png").read_bytes()
    (folder / "000004.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not a picture at all")
    (folder / "sheet.png").write_bytes(whole)
    found = measure_features(open_pictures(str(folder)), TinyExtractor())
    assert found.skipped == {
        "sheet of other pictures": ["sheet.png"],
        "picture damaged": ["000002.png", "000004.png"],
    }
    assert found.indices == (0, 1, 3, 5) and len(found.features) == 4


def test_a_folder_without_good_pictures_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        open_pictures(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="no such folder"):
        open_pictures(str(tmp_path / "absent"))
    (tmp_path / "empty" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"can be read: 1 picture damaged \(a.png\)"):
        measure_features(open_pictures(str(tmp_path / "empty")), TinyExtractor())


def test_nothing_is_resized_unless_asked_for(tmp_path):
    folder = write_pictures(tmp_path / "a", 3)
    save_png(Image.new("RGB", (20, 16)), folder / "large.png")
    pictures = open_pictures(str(folder))
    with pytest.raises(ConfigError, match=r"000000.png is 16x16, large.png is 20x16.*--resize"):
        measure_features(pictures, TinyExtractor())
    with pytest.raises(ConfigError, match="number of pixels"):
        measure_features(pictures, TinyExtractor(), 0)
    found = measure_features(pictures, TinyExtractor(), 18)
    assert found.size is None and found.enlarged == 4 and len(found.features) == 4
    wide = tmp_path / "wide"
    save_png(Image.new("RGB", (20, 16)), wide / "a.png")
    with pytest.raises(ConfigError, match="not square"):
        measure_features(open_pictures(str(wide)), TinyExtractor())


def test_sets_of_other_sizes_or_few_pictures_do_not_compare(tmp_path):
    small, large = (
        measure_features(open_pictures(str(write_pictures(tmp_path / str(n), 7, side=n))), TinyExtractor())
        for n in (8, 16)
    )
    with pytest.raises(ConfigError, match="8x8, those of --reference 16x16"):
        check_sets({"pictures": small, "reference": large}, side=None, allow_small=True)
    with pytest.raises(ConfigError, match="--allow-small"):
        check_sets({"pictures": small, "reference": small}, side=None, allow_small=False)
    check_sets({"pictures": small, "reference": small}, side=None, allow_small=True)
    with pytest.raises(ConfigError, match="name another reference"):
        check_sets({"pictures": small, "reference": large, "training": large}, side=8, allow_small=True)


def test_prompts_and_their_absence(tmp_path):
    told = write_pictures(tmp_path / "told", 8, prompts=["a red star", "a blue star"])
    reference = measure_features(
        open_pictures(str(write_pictures(tmp_path / "r", 8, seed=1))), TinyExtractor()
    )
    found = measure_features(open_pictures(str(told)), TinyExtractor())
    assert found.prompts == ("a red star", "a blue star") * 4
    assert compare(found, reference).diversity.mean > 0
    silent = compare(reference, found)
    assert silent.diversity is None and silent.without_diversity == "no picture carries its prompt"
    save_png(Image.new("RGB", (16, 16)), told / "silent.png")
    mixed = measure_features(open_pictures(str(told)), TinyExtractor())
    assert mixed.prompts[-1] is None and compare(mixed, reference).diversity.mean > 0


def test_other_kinds_of_sets_are_opened(tmp_path):
    found = measure_features(open_pictures("scenes:5:24"), TinyExtractor())
    assert found.size == (24, 24) and all(found.prompts) and len(set(found.names)) == 5


def test_features_are_computed_once(tmp_path, monkeypatch):
    folder, cache = write_pictures(tmp_path / "a", 5, prompts=["x", "y"]), tmp_path / "cache"
    (folder / "bad.png").write_bytes(b"nothing")
    extractor = TinyExtractor()

    def get(extractor=extractor, side=None):
        return cached_features(open_pictures(str(folder)), extractor, side, cache)

    first, again = get(), get()
    assert (first[1], again[1], extractor.seen) == (False, True, 5)
    assert torch.equal(first[0].features, again[0].features)
    for name in ("names", "prompts", "indices", "skipped", "content", "size", "enlarged"):
        assert getattr(first[0], name) == getattr(again[0], name)
    assert not get(TinyExtractor(1))[1] and not get(side=8)[1]  # another network, another preparation
    os.utime(folder / "000003.png", ns=(1, 1))
    assert not get()[1]
    pictures = open_pictures(str(folder))
    assert cached_features(pictures, extractor, None, None)[1] is False
    monkeypatch.setattr(feature_cache, "_digest", lambda key: "same" * 8)  # one file for all
    assert not get()[1] and get()[1] and not get(side=8)[1] and not get()[1]
    file = cache / ("same" * 8 + ".safetensors")
    key = cache_key(pictures, extractor, None)
    assert read_cache(file, key) is not None
    assert read_cache(file, {**key, "pictures": "others"}) is None
    file.write_bytes(file.read_bytes()[:100])
    assert read_cache(file, key) is None


def test_nearer_pictures_have_the_smaller_distance(tmp_path):
    """Held-out renders, then the same ones blurred, then something else."""
    from PIL import ImageFilter

    from impasto.data.scene_source import SceneOptions
    from impasto.metrics.scenes import prompt_sets, renders

    prompts = prompt_sets(SceneOptions(max_objects=2, textures=False), 48)["seen"]
    real, held_out = renders(32)(prompts, 1), renders(32)(prompts, 2)
    rng = np.random.default_rng(0)
    groups = {
        "reference": real,
        "held out": held_out,
        "blurred": [picture.filter(ImageFilter.GaussianBlur(2)) for picture in held_out],
        "unrelated": [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in prompts],
    }
    extractor = load_extractor("efficientnet-lite0:32")
    found = {}
    for name, pictures in groups.items():
        for index, picture in enumerate(pictures):
            save_png(picture, tmp_path / name / f"{index:06d}.png")
        found[name] = measure_features(open_pictures(str(tmp_path / name)), extractor)
    results = [compare(found[name], found["reference"]) for name in ("held out", "blurred", "unrelated")]
    distances = [result.frechet.distance for result in results]
    kernels = [result.kernel.mean for result in results]
    assert distances == sorted(distances) and kernels == sorted(kernels)
    assert distances[1] > 1.5 * distances[0] and distances[2] > 1.2 * distances[1]
    assert results[0].manifold.precision.mean > results[2].manifold.precision.mean
    assert 40 < results[0].frechet.rank <= 47 and results[0].frechet.condition == float("inf")

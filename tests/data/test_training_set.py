"""A set in two parts: what is held out, what is drawn of captions, what is told of bad samples."""

import json

import numpy as np
import pytest

from impasto.data.opening import open_data, resolve
from impasto.data.options import DatasetOptions
from impasto.data.records import BadSampleError, Caption, DataError, Record
from impasto.data.source import DataSource
from impasto.data.training_set import HELD_OUT_SHARE, TrainingSet, split
from tests.data.sets import pairs, picture, write_datasets, write_folder, write_metadata, write_shards
from tests.data.test_source import MemoryRecords


class NamedRecords(MemoryRecords):
    """Samples called a to z and so on; each with two English captions and a Chinese one."""

    def __init__(self, keys: list[str], bad: frozenset[int] = frozenset()) -> None:
        super().__init__(len(keys), bad)
        self.keys = keys

    def key(self, index: int) -> str:
        return self.keys[index]

    def read(self, index: int) -> Record:
        key = self.keys[index]
        captions = [Caption(f"one {key}", "en"), Caption(f"two {key}", "en"), Caption(f"三 {key}", "zh")]
        return super().read(index)._replace(name=key, captions=tuple(captions))


def keys_of(part) -> list[str]:
    return [part.key(index) for index in range(len(part))]


def test_a_twentieth_is_held_out_and_stays_so_when_others_come():
    keys = [f"picture {n}" for n in range(2000)]
    training, held_out = map(keys_of, split(NamedRecords(keys), "here"))
    assert sorted(training + held_out) == sorted(keys) and not set(training) & set(held_out)
    assert 0.035 < len(held_out) / len(keys) < 0.065 and pytest.approx(0.05) == HELD_OUT_SHARE
    fewer = [key for number, key in enumerate(keys) if number % 3]
    _, again = split(NamedRecords(fewer), "here")
    assert keys_of(again) == [key for key in fewer if key in set(held_out)]


def test_small_sets_have_one_of_each():
    for count in (2, 3, 8):
        training, held_out = split(NamedRecords([f"{n}" for n in range(count)]), "here")
        assert len(training) >= 1 and len(held_out) >= 1 and len(training) + len(held_out) == count
    with pytest.raises(DataError, match="here holds one good sample; two are needed"):
        split(NamedRecords(["alone"]), "here")


def test_every_format_names_its_samples(tmp_path):
    samples = pairs(6)
    expected = {
        write_folder(tmp_path / "folder", samples): "00004.jpg",
        write_metadata(tmp_path / "table", samples): "pictures/00004.jpg",
        write_shards(tmp_path / "shards", samples, 4): "00004",
        write_datasets(tmp_path / "datasets", samples): "row 4",
    }
    for path, key in expected.items():
        records = open_data(path)
        assert records.key(4) == key
        training, held_out = split(records, str(path))
        for part in (training, held_out):
            for index in range(len(part)):
                assert part.read(index).name.endswith(part.key(index))


def test_phrasings_are_different_captions_by_language():
    records = NamedRecords([f"{n}" for n in range(40)])
    source = DataSource(records, 8, DatasetOptions(workers=0))
    for position in range(3):
        found = source.phrasings(position, 5)
        assert sorted(found) == sorted(text for _, text in source.weighted_captions(position))
        assert len(found) == 3 and found == source.phrasings(position, 5)
    weighted = DataSource(records, 8, DatasetOptions(workers=0, languages={"en": 1, "zh": 3}))
    first = [weighted.phrasings(position, 1)[0][0] for position in range(400)]
    assert 0.67 < np.mean([word == "三" for word in first]) < 0.83
    assert weighted.weighted_captions(0)[0][0] == 0.5  # a language's weight is shared among its captions


def test_which_sample_stands_somewhere_knows_of_bad_ones():
    records = NamedRecords([f"{n}" for n in range(6)], frozenset([2]))
    source = DataSource(records, 8, DatasetOptions(workers=0, max_bad=0.5))
    _, captions = source.batch(range(6))
    found = source.samples(range(6))
    assert [caption.split()[1] for caption in captions] == [str(index) for index in found]
    assert 2 not in found and len(set(found)) == 5


def test_bad_samples_of_both_parts_are_told_of(tmp_path):
    folder = write_folder(tmp_path / "data", pairs(30))
    (folder / "more.jpg").write_bytes(picture(99))  # without a caption
    _, held_out = split(open_data(folder), "data")
    damaged = ["00000.jpg", held_out.key(0)]
    assert damaged[0] not in keys_of(held_out)
    for name in damaged:
        (folder / name).write_bytes(b"nothing")
    records, options = resolve(str(folder), DatasetOptions(max_bad=0.1))
    found, told = TrainingSet(records, 8, options, seed=0), []
    found.training.batch(range(len(found.training)))
    assert len(found.held_out) == 2
    found.held_out.batch(range(2))
    found.close()
    found.write_bad_samples(tmp_path, told.append)
    written = json.loads((tmp_path / "bad-samples.json").read_text())
    assert written["left_out_on_opening"] == {"no caption": ["more.jpg"]}
    assert written["passed_over"] == {"picture damaged": damaged}
    assert "1 no caption (more.jpg)" in told[0] and len(told) == 1


def test_the_ceiling_counts_against_the_whole_set():
    """A part of few pictures survives a bad one, as the whole does."""
    keys = [f"{n}" for n in range(100)]
    records = NamedRecords(keys)
    _, held_out = split(records, "here")
    index = next(n for n in range(100) if keys[n] == held_out.key(0))
    records.bad = frozenset([index])
    assert int(0.05 * len(held_out)) == 0
    source = DataSource(held_out, 8, DatasetOptions(workers=0, samples=100))
    source.batch(range(len(held_out)))
    assert source.faults.counts() == {"picture damaged": 1}
    alone = DataSource(held_out, 8, DatasetOptions(workers=0))
    with pytest.raises((DataError, BadSampleError)):
        alone.batch(range(len(held_out)))


def test_a_part_without_a_good_sample_is_told_apart():
    records = NamedRecords(["one", "two"], frozenset([0, 1]))
    _, held_out = split(records, "here")
    source = DataSource(held_out, 8, DatasetOptions(workers=0, samples=100, source="here"))
    with pytest.raises(DataError, match="here: a part of 1 samples has no good one: 1 picture damaged"):
        source.batch([0])

"""One set in every format gives the same samples; any rank, worker and restart sees the same order."""

import random
import threading
from collections import Counter

import pytest
import torch

from impasto.config import ConfigError
from impasto.data.opening import open_data, resolve
from impasto.data.options import DatasetOptions
from impasto.data.records import Caption, DataError, Faults, Record
from impasto.data.source import DataSource
from tests.data.sets import pairs, write_datasets, write_folder, write_metadata, write_shards

SIDE = 8


class MemoryRecords:
    """A set in memory. `bad` samples hold no picture."""

    format, fingerprint = "folder", "memory"

    def __init__(self, count: int, bad: frozenset[int] = frozenset()) -> None:
        self.samples, self.bad, self.faults = pairs(count), bad, Faults()
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Record:
        self.threads.add(threading.current_thread().name)
        name, data, text = self.samples[index]
        return Record(name, b"nothing" if index in self.bad else data, (Caption(text, "und"),), {})


def source_of(records, *, seed: int = 0, stride: int = 1, **options) -> DataSource:
    options = {"workers": 0, **options}
    return DataSource(records, SIDE, DatasetOptions(**options), seed=seed, stride=stride)


def test_the_same_pairs_in_every_format_give_the_same_tensors_and_captions(tmp_path, count=100):
    samples = pairs(count)
    sets = [
        write_folder(tmp_path / "folder", samples),
        write_metadata(tmp_path / "jsonl", samples, "jsonl"),
        write_metadata(tmp_path / "csv", samples, "csv"),
        write_metadata(tmp_path / "parquet", samples, "parquet"),
        write_shards(tmp_path / "shards", samples),
        write_datasets(tmp_path / "datasets", samples),
    ]
    formats, expected = [], None
    for path in sets:
        records = open_data(path)
        formats.append(records.format)
        assert len(records) == count and not len(records.faults)
        images, captions = source_of(records, seed=4).batch(range(count))
        if expected is None:
            expected = images, captions
        assert torch.equal(images, expected[0]) and captions == expected[1], path
    assert formats == ["folder", *["metadata"] * 3, "webdataset", "datasets"]
    assert images.shape == (count, 3, SIDE, SIDE) and images.abs().max() <= 1
    assert sorted(captions) == sorted(text for _, _, text in samples)


@pytest.mark.long
def test_a_thousand_pairs_in_every_format(tmp_path):
    test_the_same_pairs_in_every_format_give_the_same_tensors_and_captions(tmp_path, count=1000)


def test_two_ranks_with_three_workers_see_every_sample_once_an_epoch():
    records = MemoryRecords(30)
    ranks = [source_of(records, workers=3, stride=2) for _ in range(2)]
    for epoch in range(2):
        seen = Counter()
        for start in range(epoch * 30, epoch * 30 + 30, 6):
            for rank, source in enumerate(ranks):
                seen.update(source.batch(range(start + rank, start + 6, 2))[1])
        assert seen == Counter(text for _, _, text in records.samples)
    for source in ranks:
        source.close()
    assert any(name.startswith("read-ahead") for name in records.threads)


def test_stopping_anywhere_and_going_on_with_other_ranks_and_workers_is_the_same(trials=12):
    """Property: what is seen is the plain order, however it is cut among restarts, ranks and workers."""
    for trial in range(trials):
        draw = random.Random(trial)
        count, seed = draw.randint(1, 23), draw.randint(0, 10**6)
        bad = frozenset(draw.sample(range(count), draw.randint(0, count // 4)))
        records, total = MemoryRecords(count, bad), draw.randint(1, 2 * count + 5)
        options = {"seed": seed, "max_bad": 0.3, "crop": "random", "flips": True}
        images, captions = source_of(records, **options).batch(range(total))
        at = 0
        while at < total:
            end, ranks = draw.randint(at + 1, total), draw.randint(1, 3)
            for rank in range(ranks):
                source = source_of(records, stride=ranks, workers=draw.randint(0, 3), **options)
                mine, size = range(at + rank, end, ranks), draw.randint(1, 5)
                for start in range(0, len(mine), size):
                    chosen = mine[start : start + size]
                    got_images, got_captions = source.batch(chosen)
                    assert torch.equal(got_images, images[list(chosen)]), trial
                    assert got_captions == [captions[position] for position in chosen], trial
                source.close()
            at = end


def test_a_bad_sample_shifts_no_other_and_its_place_goes_to_the_next_good_one():
    whole, holed = MemoryRecords(20), MemoryRecords(20, frozenset([3, 11]))
    good, source = source_of(whole, seed=1), source_of(holed, seed=1, max_bad=0.2)
    order = [good.order.index(place) for place in range(20)]
    expected = [example.name for example in good.examples(range(20))]
    found = [example.name for example in source.examples(range(20))]
    for place, index in enumerate(order):
        if index in holed.bad:
            following = next(i for i in (order * 2)[place:] if i not in holed.bad)
            assert found[place] == f"{following:05d}"
        else:
            assert found[place] == expected[place]
    assert source.faults.counts() == {"picture damaged": 2}
    assert sorted(source.faults.files()["picture damaged"]) == ["00003", "00011"]


def test_more_bad_samples_than_allowed_stop_the_run_whatever_is_read_ahead():
    for workers in (0, 2):
        source = source_of(MemoryRecords(20, frozenset(range(0, 20, 4))), workers=workers, max_bad=0.15)
        with pytest.raises(DataError, match=r"5 of 20|4 of 20.*dataset.max_bad=0.15") as error:
            for start in range(0, 20, 4):
                source.batch(range(start, start + 4))
        assert "picture damaged" in str(error.value) and "\n" not in str(error.value)
        source.close()


def test_near_misses_are_unknown_and_captions_need_no_picture():
    source = source_of(MemoryRecords(5, frozenset(range(5))), max_bad=1)
    assert source.near_misses(range(3)) == [None, None, None]
    assert len(set(source.captions(5))) == 5


def test_options_that_cannot_be_are_refused(tmp_path):
    for options, message in [
        ({"max_bad": 2.0}, "max_bad"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"workers": -1}, "workers"),
        ({"languages": {"en": 0.0}}, "languages"),
    ]:
        with pytest.raises(ConfigError, match=message):
            DatasetOptions(**options)
    for source, message in [
        (str(tmp_path / "nowhere"), "no such file"),
        ("https://example/000.tar", "is a stream, which only Aurora trains on"),
        ("scenes:none", "scenes:COUNT"),
        (str(tmp_path), "holds no pictures"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_data(source)


def test_a_resolved_set_says_what_it_is_and_notices_another(tmp_path):
    folder = write_folder(tmp_path / "set", pairs(6))
    _, found = resolve(str(folder), DatasetOptions())
    assert (found.source, found.format, found.samples) == (str(folder), "folder", 6)
    (folder / "00003.txt").unlink()
    with pytest.raises(DataError, match=r"1 of 6 samples are bad.*1 no caption \(00003.jpg\)"):
        resolve(str(folder), found)
    _, changed = resolve(str(folder), DatasetOptions(max_bad=0.2))
    assert changed.samples == 5 and changed.fingerprint != found.fingerprint


def test_scenes_are_a_set_too():
    records = open_data("scenes:3:16")
    captions = records.read(2).captions
    assert len(records) == 3 and [caption.language for caption in captions] == ["en", "zh"]
    chinese = source_of(records, languages={"zh": 1.0}).captions(3)
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in chinese)


def spoken(number: int) -> Record:
    """Two captions in each of two languages, in turns."""
    words = "a red fox" if number % 3 == 0 else "a Blue Fish"
    captions = [Caption(f"{words} {number} {way}", code) for way in ("one", "two") for code in ("en", "zh")]
    return Record(f"{number:05d}", pairs(1)[0][1], tuple(captions), {})


class SpokenRecords(MemoryRecords):
    def read(self, index: int) -> Record:
        return spoken(index)


def test_phrasings_keeps_the_first_captions_of_each_language():
    told = {text for _, text in source_of(SpokenRecords(9), phrasings=1).weighted_captions(0)}
    every = source_of(SpokenRecords(9)).weighted_captions(0)
    assert len(every) == 4 and len(told) == 1  # both languages say the same words here
    assert all(text.endswith("one") for text in told)
    weighted = source_of(SpokenRecords(9), phrasings=1, languages={"zh": 2.0}).weighted_captions(0)
    assert [chance for chance, _ in weighted] == [2.0]


def test_excluded_words_leave_samples_out_whatever_their_case(tmp_path):
    folder = write_folder(tmp_path / "folder", pairs(20))
    whole, _ = resolve(str(folder), DatasetOptions())
    records, found = resolve(str(folder), DatasetOptions(exclude=("BLUE mugs", "nothing like it")))
    left = [records.read(index).captions[0].text for index in range(len(records))]
    assert len(records) == found.samples == 15 and len(whole) == 20
    assert not any("blue mugs" in text for text in left) and not records.faults.counts()
    assert records.key(1) == whole.key(2)
    assert len(open_data(folder, DatasetOptions(exclude=("blue mugs",)))) == 15
    with pytest.raises(DataError, match=r"dataset.exclude=\['number'\] leaves no sample"):
        resolve(str(folder), DatasetOptions(exclude=("number",)))
    with pytest.raises(ConfigError, match="every caption"):
        DatasetOptions(exclude=(" ",))

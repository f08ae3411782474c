"""What goes wrong in real sets: survived, counted by reason and file, replaced by nothing made up."""

import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from impasto.data.opening import open_data
from impasto.data.options import DatasetOptions
from impasto.data.records import BadSampleError, DataError
from impasto.data.shard_index import FOLDER
from impasto.data.source import DataSource
from impasto.data.transforms import decode, fit
from tests.data.sets import add, pairs, picture, write_folder, write_metadata, write_shards

TOLERANT = DatasetOptions(max_bad=0.9, workers=0)


def bomb() -> bytes:
    """A PNG of 100,000 x 100,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def look_at_all(records) -> tuple[dict[str, list[str]], list[str]]:
    """(files by reason, captions that were seen) of one epoch."""
    source = DataSource(records, 8, TOLERANT)
    captions = source.batch(range(len(records)))[1]
    for reason, name in source.faults:
        records.faults.add(reason, name)
    return records.faults.files(), captions


def test_a_folder_with_everything_wrong_in_it(tmp_path):
    folder = write_folder(tmp_path / "set", pairs(10))
    whole = (folder / "00001.jpg").read_bytes()
    (folder / "00001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "00002.jpg").write_bytes(b"\xff\xd8 not a picture")
    (folder / "00003.txt").unlink()
    (folder / "00004.txt").write_text(" \n\n")
    (folder / "00005.txt").write_bytes("café".encode("latin-1"))
    (folder / "00006.jpg").write_bytes(bomb())
    (folder / "00007.jpg").write_bytes(b"")
    found, captions = look_at_all(open_data(folder))
    assert sorted(found["no caption"]) == ["00003.jpg", "00004.jpg"]  # no file; nothing in it
    assert found["caption not UTF-8"] == ["00005.jpg"] and found["picture too large"] == ["00006.jpg"]
    assert sorted(found["picture damaged"]) == ["00001.jpg", "00002.jpg", "00007.jpg"]
    good = {pairs(10)[n][2] for n in (0, 8, 9)}
    assert set(captions) == good


def test_a_table_with_everything_wrong_in_it(tmp_path):
    folder = write_metadata(tmp_path / "set", pairs(6))
    table = folder / "metadata.jsonl"
    lines = table.read_bytes().splitlines()
    lines[1] = b"{not json"
    lines[2] = json.dumps({"file_name": "pictures/00002.jpg", "text": ""}).encode()
    lines[3] = b'{"file_name": "pictures/00003.jpg", "text": "caf\xe9"}'
    lines[4] = json.dumps({"file_name": "../outside.jpg", "text": "x"}).encode()
    table.write_bytes(b"\n".join(lines))
    (folder / "pictures" / "00005.jpg").unlink()
    records = open_data(folder)
    assert records.faults.files() == {
        "row damaged": ["metadata.jsonl row 2"],
        "no caption": ["pictures/00002.jpg"],
        "caption not UTF-8": ["pictures/00003.jpg"],
        "outside the folder": ["metadata.jsonl row 5"],
    }
    found, captions = look_at_all(records)
    assert found["no picture"] == ["pictures/00005.jpg"] and set(captions) == {pairs(6)[0][2]}


def test_tar_files_cut_at_any_byte_keep_what_is_whole(tmp_path):
    samples = pairs(4)
    whole = (write_shards(tmp_path / "whole", samples) / "00000.tar").read_bytes()
    counts = set()
    end = len(whole.rstrip(b"\0"))
    for cut in [0, 100, 511, 512, *range(700, end, 1500), end - 1, -(-end // 512) * 512]:
        folder = tmp_path / f"cut-{cut}"
        write_shards(folder, samples[:1])
        (folder / "00000.tar").rename(folder / "00001.tar")
        (folder / "00000.tar").write_bytes(whole[:cut])
        records = open_data(folder)
        assert "00000.tar" in records.faults.files()["tar file truncated"], cut
        kept = [records.read(index) for index in range(len(records))]
        assert [r.picture for r in kept] == [s[1] for s in samples[: len(kept) - 1]] + [samples[0][1]]
        counts.add(len(kept) - 1)
    assert {0, 2, 4} <= counts


def test_tar_files_with_everything_wrong_in_them(tmp_path):
    folder = write_shards(tmp_path / "set", pairs(3), size=2)
    with tarfile.open(folder / "00002.tar", "w") as archive:
        add(archive, "a.jpg", picture(1))
        add(archive, "b.txt", b"no picture")
        add(archive, "c.jpg", picture(2)[:200])
        add(archive, "c.txt", b"cut")
        add(archive, "d.jpg", picture(3))
        add(archive, "d.txt", "é".encode("latin-1"))
        add(archive, "e.jpg", picture(4))
        add(archive, "e.json", b"{")
        add(archive, "deep/f.v2.PNG", picture(5, kind="PNG"))
        add(archive, "deep/f.v2.txt", b"no extension that is known")
        add(archive, "g.PNG", picture(6, kind="PNG"))
        add(archive, "g.json", json.dumps({"caption": "from the JSON"}).encode())
    data = bytearray((folder / "00000.tar").read_bytes())
    data[data.index(b"00001.jpg") : data.index(b"00001.jpg") + 5] = b"\0\xff\0\xff\0"
    (folder / "00000.tar").write_bytes(data)
    found, captions = look_at_all(open_data(folder))
    assert found["tar file damaged"] == ["00000.tar"]
    assert found["no caption"] == ["00002.tar:a"]
    assert set(found["no picture"]) == {"00002.tar:b", "00002.tar:deep/f"}
    assert found["picture damaged"] == ["00002.tar:c"] and found["caption not UTF-8"] == ["00002.tar:d"]
    assert found["JSON damaged"] == ["00002.tar:e"]
    assert set(captions) == {pairs(3)[0][2], pairs(3)[2][2], "from the JSON"}


def test_the_index_is_made_once_and_again_when_a_file_changes(tmp_path):
    folder = write_shards(tmp_path / "set", pairs(4), size=2)
    first = open_data(folder).fingerprint
    written = {path: path.stat().st_mtime_ns for path in (folder / FOLDER).iterdir()}
    assert len(written) == 2 and open_data(folder).fingerprint == first
    assert {path: path.stat().st_mtime_ns for path in (folder / FOLDER).iterdir()} == written
    write_shards(tmp_path / "other", pairs(5), size=3)
    (tmp_path / "other" / "00000.tar").replace(folder / "00000.tar")
    changed = open_data(folder)
    assert len(changed) == 5 and changed.fingerprint != first
    cached = open_data(folder, DatasetOptions(cache=str(tmp_path / "cache")))
    assert len(cached) == 5 and len(list((tmp_path / "cache").iterdir())) == 2
    for path in (tmp_path / "cache").glob("*.npy"):
        path.write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"is damaged.*delete it"):
        open_data(folder, DatasetOptions(cache=str(tmp_path / "cache")))


def test_compressed_tar_files_are_refused_with_the_way_out(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz") as archive:
        add(archive, "a.txt", b"x")
    with pytest.raises(DataError, match="gunzip"):
        open_data(tmp_path)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_pictures_of_every_mode_become_rgb():
    half = np.full((6, 6), 0x8000, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter clockwise
    turned = Image.new("RGB", (8, 4), "black")
    turned.paste("white", (0, 0, 4, 4))
    for data, expected in [
        (encoded(Image.new("L", (6, 6), 100), "PNG"), (100, 100, 100)),
        (encoded(Image.new("RGBA", (6, 6), (10, 20, 30, 0)), "PNG"), (255, 255, 255)),
        (encoded(Image.new("CMYK", (6, 6), (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
        (encoded(Image.fromarray(half), "PNG"), (128, 128, 128)),
        (encoded(Image.new("RGB", (6, 6), "red"), "WEBP", lossless=True), (255, 0, 0)),
        (encoded(Image.new("P", (6, 6), 0), "PNG", transparency=0), (255, 255, 255)),
    ]:
        image = decode(data, "x", TOLERANT)
        assert image.mode == "RGB" and image.getpixel((2, 2)) == expected
    upright = decode(encoded(turned, "JPEG", exif=exif), "x", TOLERANT)
    assert upright.size == (4, 8) and min(upright.getpixel((1, 1))) > 200 > 50 > max(upright.getpixel((1, 6)))


def test_sizes_have_limits():
    small = picture(1, side=12)
    for options, reason in [({"smallest_side": 16}, "too small"), ({"max_pixels": 100}, "too large")]:
        with pytest.raises(BadSampleError, match=reason):
            decode(small, "x", DatasetOptions(**options))


def test_crops_and_resizes_are_what_they_are_called():
    wide = Image.fromarray(np.arange(16 * 32 * 3, dtype=np.uint32).reshape(16, 32, 3).astype(np.uint8))
    boxes = np.asarray(wide)[:, 8:24].reshape(8, 2, 8, 2, 3).astype(float).mean((1, 3))
    made = fit(wide, 8, DatasetOptions(resize="box"))
    assert np.abs(made - boxes).max() <= 0.5
    assert fit(wide, 8, DatasetOptions(crop="squash")).shape == (8, 8, 3)
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (64, 32)))
    for resize in ("lanczos", "box"):  # antialiased: fine stripes become gray, not moire
        gray = fit(stripes, 16, DatasetOptions(resize=resize)).astype(int)
        assert np.abs(gray[4:-4, 4:-4] - 127).max() <= 8
    places = {
        fit(wide, 16, DatasetOptions(crop="random"), np.random.default_rng(n)).tobytes() for n in range(9)
    }
    assert len(places) > 3
    flipped = {fit(wide, 8, DatasetOptions(flips=True), np.random.default_rng(n)).tobytes() for n in range(9)}
    plain = fit(wide, 8, DatasetOptions())
    assert flipped == {plain.tobytes(), plain[:, ::-1].tobytes()}


def test_several_captions_and_languages(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(picture(1, kind="PNG"))
        (folder / f"{name}.en.txt").write_text("one\ntwo\n")
    (folder / "a.zh.txt").write_text("三", encoding="utf-8")
    records = open_data(folder)
    assert [tuple(caption) for caption in records.read(0).captions] == [
        ("one", "en"), ("two", "en"), ("三", "zh"),
    ]  # fmt: skip

    def drawn(**options) -> list[str]:
        return DataSource(records, 8, DatasetOptions(workers=0, **options)).captions(400)

    assert set(drawn()) == {"one", "two", "三"}
    mixed = drawn(languages={"en": 1.0, "zh": 3.0})
    assert 100 < mixed.count("三") < 200  # a has it in three of four cases, b never
    only = DataSource(records, 8, DatasetOptions(workers=0, languages={"zh": 1.0}, max_bad=0.5))
    assert set(only.batch(range(4))[1]) == {"三"}
    assert only.faults.files() == {"no caption in dataset.languages": ["b.png"]}

"""`impasto data check` and `impasto data pack`: findings, and shards of the same bytes every time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from impasto.cli import main
from impasto.data import pack as packing
from impasto.data.opening import open_data
from impasto.data.options import DatasetOptions
from impasto.data.records import DataError
from impasto.data.source import DataSource
from tests.data.sets import pairs, write_datasets, write_folder, write_metadata, write_shards


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def seen(path: Path, **options):
    records = open_data(path)
    return DataSource(records, 8, DatasetOptions(workers=0, **options)).batch(range(len(records)))


def test_check_counts_what_is_there(tmp_path, capsys):
    samples = pairs(20)
    folder = write_folder(tmp_path / "set", samples)
    (folder / "00007.jpg").write_bytes((folder / "00003.jpg").read_bytes())
    (folder / "00009.jpg").write_bytes(b"damaged")
    (folder / "00011.txt").unlink()
    (folder / "00002.txt").write_text("one\ntwo")
    (folder / "00002.zh.txt").write_text("三", encoding="utf-8")
    (folder / "LICENSE").write_text("CC0")
    out = tmp_path / "report"
    assert main(["data", "check", str(folder), "--out", str(out), "--set", "max_bad=0.2"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "folder, 18 good samples", "1 no caption: 00011.jpg", "1 picture damaged: 00009.jpg",
        "24 to 24, median 24 px", "20, 1 to 3, median 1 a sample", "und 19, zh 1",
        "1 copies of 1 pictures", "see LICENSE",
    ):  # fmt: skip
        assert part in printed, (part, printed)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 500
    found = json.loads((out / "report.json").read_text())
    assert found["duplicates"]["files"] == [["00003.jpg", "00007.jpg"]]
    assert main(["data", "check", str(folder), "--json"]) == 1  # two of twenty are more than a twentieth
    assert not json.loads(capsys.readouterr().out)["within_ceiling"]
    assert main(["data", "check", str(tmp_path / "nothing")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_every_format_packs_to_the_same_samples(tmp_path):
    samples = pairs(10)
    sets = {
        "folder": write_folder(tmp_path / "folder", samples),
        "csv": write_metadata(tmp_path / "csv", samples, "csv"),
        "shards": write_shards(tmp_path / "shards", samples, size=4),
        "datasets": write_datasets(tmp_path / "datasets", samples),
    }
    expected = seen(sets["folder"])
    for name, path in sets.items():
        told = packing.pack(str(path), tmp_path / f"packed-{name}", shard_size=3)
        assert (told["samples"], told["shards"], told["bad"]) == (10, 4, {})
        images, captions = seen(tmp_path / f"packed-{name}")
        assert torch.equal(images, expected[0]) and captions == expected[1], name
    # A pack of a pack holds the same pictures and captions again, several captions and languages included.
    (sets["folder"] / "00001.zh.txt").write_text("一\n二", encoding="utf-8")
    packing.pack(str(sets["folder"]), tmp_path / "one")
    packing.pack(str(tmp_path / "one"), tmp_path / "two")
    first, second = open_data(tmp_path / "one"), open_data(tmp_path / "two")
    assert [first.read(n).captions for n in range(10)] == [second.read(n).captions for n in range(10)]
    assert len(second.read(1).captions) == 3


def test_packs_are_the_same_bytes_with_any_workers_and_after_being_stopped(tmp_path, capsys):
    samples = pairs(12)
    folder = write_folder(tmp_path / "set", samples)
    (folder / "00004.jpg").write_bytes(b"damaged")
    arguments = ["--shard-size", "3", "--set", "max_bad=0.1"]
    whole = tmp_path / "whole"
    assert main(["data", "pack", str(folder), str(whole), *arguments, "--workers", "1"]) == 0
    assert "wrote 11 samples in 4 shards" in capsys.readouterr().out
    expected = shards_of(whole)
    assert sorted(expected) == [*(f"{n:05d}.tar" for n in range(4)), "SHA256SUMS", "pack.json"]
    sums = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=whole, capture_output=True)
    assert sums.returncode == 0

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    options, cut = DatasetOptions(max_bad=0.1), tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        packing.pack(str(folder), cut, options, shard_size=3, workers=3, progress=stop)
    assert not (cut / "pack.json").exists()
    written = sorted(cut.glob("*.tar"))
    written[0].write_bytes(b"half a shard")
    kept = {path: path.stat().st_mtime_ns for path in written[1:]}
    packing.pack(str(folder), cut, options, shard_size=3, workers=2)
    assert shards_of(cut) == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # those were not written again
    for wrong, message in [({"shard_size": 4}, "another shard_size"), ({"shard_size": 0}, "at least 1")]:
        with pytest.raises(DataError, match=message):
            packing.pack(str(folder), cut, options, **wrong)
    with pytest.raises(DataError, match="not empty"):
        packing.pack(str(folder), folder, options)
    with pytest.raises(DataError, match=r"1 of 12 samples are bad.*picture damaged \(00004.jpg\)"):
        packing.pack(str(folder), tmp_path / "strict", shard_size=3)


def test_a_pack_holds_the_captions_that_the_options_allow(tmp_path):
    folder = write_folder(tmp_path / "set", pairs(3))
    (folder / "00000.txt").write_text("one\ntwo", encoding="utf-8")
    (folder / "00000.zh.txt").write_text("一\n二", encoding="utf-8")
    (folder / "00001.zh.txt").write_text("三", encoding="utf-8")

    def packed(name: str, **options):
        told = packing.pack(str(folder), tmp_path / name, DatasetOptions(**options))
        records = open_data(tmp_path / name)
        return told, [[text for text, _ in records.read(n).captions] for n in range(len(records))]

    second, third = (path.read_text("utf-8").strip() for path in (folder / "00001.txt", folder / "00002.txt"))
    assert packed("all")[1] == [["one", "two", "一", "二"], [second, "三"], [third]]
    assert packed("first", phrasings=1)[1] == [["one", "一"], [second, "三"], [third]]
    told, captions = packed("chinese", languages={"zh": 2.0, "und": 0.0}, max_bad=0.5)
    assert captions == [["一", "二"], ["三"]]
    assert told["bad"] == {"no caption in dataset.languages": ["00002.jpg"]}
    with pytest.raises(DataError, match="another phrasings"):
        packed("all", phrasings=1)


@pytest.mark.long
def test_a_pack_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path):
    folder = write_folder(tmp_path / "set", pairs(600))
    packing.pack(str(folder), tmp_path / "whole", shard_size=20)
    cut = tmp_path / "cut"
    command = [
        sys.executable,
        "-m",
        "impasto.cli",
        "data",
        "pack",
        str(folder),
        str(cut),
        "--shard-size",
        "20",
    ]
    for shards in (1, 8):
        process = subprocess.Popen(command, env=os.environ)
        while process.poll() is None and len(list(cut.glob("*.tar"))) < shards:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    packing.pack(str(folder), cut, shard_size=20)
    assert shards_of(cut) == shards_of(tmp_path / "whole")

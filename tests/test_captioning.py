"""Captions of many pictures into a file: gone on with, bad ones counted, nothing torn."""

import csv
import json
import zlib

import pytest
from PIL import ExifTags, Image

from impasto.captioning import caption_file, find_pictures
from impasto.cli import main
from impasto.config import ConfigError
from impasto.pictures import open_picture

MADE = {"model": "one"}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    (place / "inner").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(
            place / ("inner" if number % 2 else "") / f"{number}.png"
        )
    (place / "notes.md").write_text("no picture")
    return place


class Describer:
    """Says the red of a picture; counts what it was asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        return self.tell

    def tell(self, images, language):
        self.asked += len(images)
        return [f'red "{image.getpixel((0, 0))[0]}",\n{language}' for image in images]


def rows_of(path):
    if path.suffix == ".csv":
        return list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["out/told.jsonl", "out/told.csv"])
def test_a_file_is_gone_on_with(folder, tmp_path, name):
    pictures, out = find_pictures([str(folder)]), tmp_path / name
    assert [path.name for path in pictures] == ["0.png", "2.png", "4.png", "1.png", "3.png"]
    found = caption_file(pictures, out, Describer(), MADE, languages=("en", "zh"), batch=2)
    assert (found.pictures, found.written, found.before) == (5, 10, 0)
    whole, rows = out.read_bytes(), rows_of(out)
    assert [row["caption"] for row in rows[:2]] == ['red "0", en', 'red "0", zh']  # one line each
    assert {row["picture"] for row in rows} == set(map(str, pictures))
    out.write_bytes(whole[: whole.rfind(b"4.png") + 12])  # cut short in the middle of a line
    describer = Describer()
    found = caption_file(pictures, out, describer, MADE, languages=("en", "zh"), batch=2)
    assert out.read_bytes() == whole and found.before + found.written == 10 and describer.asked < 10

    def never():
        raise AssertionError("nothing is missing")

    assert caption_file(pictures, out, never, MADE, languages=("en", "zh")).written == 0
    with pytest.raises(ConfigError, match="captions with another model"):
        caption_file(pictures, out, never, {"model": "two"}, languages=("en", "zh"))
    with pytest.raises(ConfigError, match="another languages"):
        caption_file(pictures, out, never, MADE)


def test_pictures_that_cannot_be_read_are_counted(folder, tmp_path):
    (folder / "bad.png").write_bytes(b"torn")
    (tmp_path / "list.txt").write_text("pictures/0.png\n\npictures/gone.png\npictures/bad.png\n")
    pictures, out = find_pictures([], str(tmp_path / "list.txt")), tmp_path / "told.jsonl"
    with pytest.raises(ConfigError, match="2 of 3 pictures cannot be read, more than 5%"):
        caption_file(pictures, out, Describer(), MADE)
    found = caption_file(pictures, out, Describer(), MADE, max_bad=0.7)
    assert found.written == 1 and len(found.faults) == 2
    assert json.loads((tmp_path / "told.jsonl.json").read_text())["bad"].keys() == {
        "no such file",
        "not an image that can be read",
    }


def test_pictures_are_read_upright_on_white_and_within_a_limit(folder, tmp_path):
    left = Image.new("RGB", (8, 4), "red")
    left.paste("blue", (4, 0, 8, 4))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned
    left.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    turned, clear = open_picture(tmp_path / "turned.jpg"), open_picture(tmp_path / "clear.png")
    assert turned.size == (4, 8) and turned.getpixel((2, 1))[0] > 200 and turned.getpixel((2, 6))[2] > 200
    assert clear.getpixel((1, 1)) == (255, 255, 255)
    (tmp_path / "large").mkdir()
    header = bytearray((folder / "0.png").read_bytes())
    header[16:24] = (30_000).to_bytes(4, "big") * 2  # a bomb: 900 million pixels, says its header
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    (tmp_path / "large/bomb.png").write_bytes(header)
    found = caption_file([tmp_path / "large/bomb.png"], tmp_path / "x.csv", Describer(), MADE, max_bad=1.0)
    assert found.written == 0
    bad = json.loads((tmp_path / "x.csv.json").read_text())["bad"]
    assert list(bad) == ["more than 67,108,864 pixels"]
    with pytest.raises(ValueError, match=r"bomb\.png: more than 67,108,864 pixels"):
        open_picture(tmp_path / "large/bomb.png")


def test_the_command_refuses_in_one_line(folder, tmp_path, capsys):
    for arguments, words in (
        ([], "name pictures"),
        ([str(tmp_path / "pictures/inner"), "--out", "x.txt"], "should end in .jsonl or .csv"),
        (["--list", str(tmp_path / "none")], "no such file"),
        ([str(folder), "--language", "en", "--language", "zh"], "go with --out"),
        ([str(folder), "--max-bad", "2", "--out", "x.csv"], "--max-bad a share"),
    ):
        assert main(["caption", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error

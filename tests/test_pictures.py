"""Tensors to pictures, sheets, settings inside PNG files."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from impasto.pictures import (
    MARGIN,
    PAPER,
    _font,
    captioned_sheet,
    contact_sheet,
    read_settings,
    save_png,
    to_images,
)


def test_eight_bit_conversion_rounds_and_clips():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.004, 1.0, 3.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    (picture,) = to_images(values)
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 128, 128, 255, 255]


def test_sheet_has_a_cell_for_every_picture_and_keeps_pixels_square():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    rows = [
        [Image.new("RGB", (4, 4), c) for c in colours],
        [Image.new("RGB", (8, 8), c) for c in colours[:2]],
    ]
    sheet = np.asarray(contact_sheet(rows, ["a " + "very " * 50 + "long prompt", "b"], cell=32))
    found = {tuple(int(v) for v in pixel) for pixel in sheet.reshape(-1, 3)}
    assert set(colours) <= found
    for colour in colours[:2]:
        assert int((sheet == colour).all(-1).sum()) == 2 * 32 * 32


def test_a_caption_stands_beside_its_picture_and_is_broken_into_lines():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    short, long = (
        np.asarray(captioned_sheet([red] * 2, ["0.31 a cat", text], cell=32, columns=1))
        for text in ("0.29 a dog", "0.29 " + "a rather long prompt " * 20)
    )
    assert short.shape == long.shape and int((long == (255, 0, 0)).all(-1).sum()) == 2 * 32 * 32
    beside = long[len(long) // 2 :, 32 + 2 * MARGIN :]
    written = np.flatnonzero((beside != PAPER).any((1, 2)))
    assert written[-1] - written[0] > 2 * 14  # three lines
    assert (beside[:, -MARGIN:] == PAPER).all()  # nothing runs out of the sheet
    assert captioned_sheet([red] * 6, ["a"] * 6, columns=4).width > short.shape[1]


def test_settings_travel_in_the_file(tmp_path):
    save_png(Image.new("RGB", (2, 2)), tmp_path / "deep" / "a.png", {"prompt": "一只猫", "seed": 3})
    assert read_settings(tmp_path / "deep" / "a.png") == {"prompt": "一只猫", "seed": 3}
    save_png(Image.new("RGB", (2, 2)), tmp_path / "b.png")
    assert read_settings(tmp_path / "b.png") == {}


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_png(Image.new("RGB", (2, 2)), tmp_path / "a.png", {"bad": object()})
    assert list(tmp_path.iterdir()) == []


def test_chinese_labels_take_a_font_that_has_the_characters(monkeypatch):
    asked, other, real = [], ImageFont.load_default(size=20), ImageFont.truetype

    def truetype(name, size, *rest, **options):
        if not isinstance(name, str):  # Pillow's own font
            return real(name, size, *rest, **options)
        asked.append(name)
        if name != "wqy-microhei.ttc":
            raise OSError("cannot open resource")
        return other

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    _font.cache_clear()
    try:
        assert _font(True) is other and asked[-1] == "wqy-microhei.ttc"
        count = len(asked)
        contact_sheet([[Image.new("RGB", (8, 8))]], ["a red circle"])
        assert len(asked) == count  # Latin labels ask for none
        contact_sheet([[Image.new("RGB", (8, 8))]], ["红色的圆形"])
    finally:
        _font.cache_clear()

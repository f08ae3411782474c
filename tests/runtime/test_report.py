"""The run's page."""

import re

from PIL import Image

from impasto.pictures import save_png
from impasto.runtime.log import MetricsWriter
from impasto.runtime.report import write_report


def test_a_page_with_curves_and_the_newest_samples(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        for images in range(0, 50, 10):
            values = {"loss/generator": 1 / (images + 1), "experts/layer_00/00": 0.25}
            writer.write(images, {**values, "experts/layer_00/01": 0.75}, {"images_per_second": 3.0})
        writer.write(50, {"loss/generator": float("nan")})
    for name in ("000-sheet", "010-sheet", "010-routes"):
        save_png(Image.new("RGB", (4, 4)), tmp_path / "samples" / f"{name}.png")
    page = write_report(tmp_path, "a <run>", '{"x": "<y>"}').read_text()
    assert "a &lt;run&gt;" in page and "&lt;y&gt;" in page and "<script" not in page
    assert "010-sheet.png" in page and "000-sheet.png" not in page and "010-routes.png" in page
    assert page.count("<svg") == 3  # generator, both experts together, speed
    assert len(re.findall("<polyline", page)) == 4
    assert "50 images seen" in page


def test_an_empty_run_has_a_page_too(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert "0 images seen" in write_report(tmp_path, "new").read_text()

"""How fast pictures become features, on one core: Impasto's streaming measure, a plain loop with the
same network and preparation, and torch-fidelity's own reader where it is installed; how memory grows with the
number of pictures; and how long the statistics take.

    python -m benchmarks.evaluation [--quick] [--json FILE]

The ways take turns on the same pictures in one process, so that what else the machine does falls on all.
Aims: no slower than the others, 1.2 times the speed of torch-fidelity; memory that grows by the features
alone (5 KB a picture) and not by the pictures (196 KB each at 256 px as bytes, four times that as numbers).
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import Spread, arguments_of, peak_memory, take_turns, write_result
from PIL import Image

from impasto.metrics.comparison import compare
from impasto.metrics.extractors import Extractor, load_extractor, to_bytes
from impasto.metrics.picture_sets import SetFeatures, measure_features
from impasto.metrics.picture_sources import open_pictures
from impasto.pictures import from_images

STORED, BATCH = 256, 32


class Pixels:
    """A network of no cost, to see the memory of the reading alone."""

    name, distance, fingerprint = "pixels", "FD-Pixels", "0" * 64
    settings = {"side": 16}  # noqa: RUF012
    networks = {}  # noqa: RUF012

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, (20, 21)).flatten(1)


def write_pictures(folder: Path, count: int) -> None:
    """Pictures with structure at every scale, as PNG."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.zeros((STORED, STORED, 3))
        for cells in (3, 12, 48):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            pixels += np.asarray(noise.resize((STORED, STORED), Image.Resampling.BICUBIC)) / 3
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:06d}.png")


def streamed(folder: Path, extractor: Extractor) -> None:
    measure_features(open_pictures(str(folder)), extractor, batch=BATCH, workers=1)


def plain_loop(folder: Path, extractor: Extractor) -> None:
    files = sorted(folder.glob("*.png"))
    parts = []
    for start in range(0, len(files), BATCH):
        pictures = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        parts.append(extractor.features(from_images(pictures)))
    torch.cat(parts)


def torch_fidelity_reader() -> Callable[[Path, Extractor], None] | None:
    """torch-fidelity's own loop over a folder, with our network; None where it is not installed."""
    try:
        from torch_fidelity.datasets import ImagesPathDataset
        from torch_fidelity.feature_extractor_base import FeatureExtractorBase
        from torch_fidelity.utils import get_featuresdict_from_dataset
    except ImportError:
        return None

    class Adapted(FeatureExtractorBase):
        def __init__(self, extractor: Extractor) -> None:
            super().__init__("adapted", ["features"])
            self.extractor = extractor

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.extractor.features(images.float() / 127.5 - 1),)

    def run(folder: Path, extractor: Extractor) -> None:
        files = [str(file) for file in sorted(folder.glob("*.png"))]
        # "save_cpu_ram": no processes beside this one, whose time would not be counted
        get_featuresdict_from_dataset(
            ImagesPathDataset(files), Adapted(extractor), BATCH, False, save_cpu_ram=True, verbose=False
        )

    return run


def speeds(folder: Path, count: int, rounds: int) -> dict[str, float]:
    """Pictures a second of one core's time, the slowest and the quickest round's too; ratios of medians."""
    extractor = load_extractor()
    readers: dict[str, Callable[[Path, Extractor], None]] = {"impasto": streamed, "plain_loop": plain_loop}
    theirs = torch_fidelity_reader()
    if theirs is not None:
        readers["torch_fidelity"] = theirs
    ways = {name: partial(reader, folder, extractor) for name, reader in readers.items()}
    seconds = take_turns(ways, rounds)
    result = {}
    for way, spent in seconds.items():
        result[f"{way}_pictures_per_core_second"] = count / spent.median
        result[f"{way}_slowest"], result[f"{way}_quickest"] = count / spent.most, count / spent.least
    for way in ways:
        if way != "impasto":
            result[f"against_{way}"] = seconds[way].median / seconds["impasto"].median
    return result


def _peak(folder: str, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    measure_features(open_pictures(folder), Pixels(), batch=BATCH)
    queue.put(peak_memory())


def peak_of(folder: Path) -> int:
    """Bytes at the peak, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(str(folder), queue))
    process.start()
    peak = queue.get(timeout=120)
    process.join()
    return peak


def statistics_seconds(count: int, rounds: int) -> Spread:
    """Every measure of two sets of so many features."""
    generator = torch.Generator().manual_seed(0)
    sets = [
        SetFeatures(
            features=torch.randn(count, 1280, generator=generator),
            indices=(),
            names=(),
            prompts=(None,) * count,
            size=None,
            enlarged=0,
            content="",
        )
        for _ in range(2)
    ]
    return take_turns({"statistics": lambda: compare(*sets)}, rounds)["statistics"]


def measure(count: int, rounds: int) -> dict[str, float]:
    assert torch.equal(to_bytes(torch.tensor([-1.0, 1])), torch.tensor([0, 255], dtype=torch.uint8))
    with tempfile.TemporaryDirectory() as name:
        few, many = Path(name, "few"), Path(name, "many")
        write_pictures(few, count)
        many.mkdir()
        for copy in range(4):
            for file in few.iterdir():
                (many / f"{copy}{file.name}").symlink_to(file)
        result = speeds(few, count, rounds)
        peaks = [peak_of(folder) for folder in (few, many)]
    result["peak_mib"], result["peak_mib_of_4_times_as_many"] = (peak / 2**20 for peak in peaks)
    result["extra_kib_a_picture"] = (peaks[1] - peaks[0]) / (3 * count) / 1024
    result["statistics_pictures"] = float(4 * count)
    spent = statistics_seconds(4 * count, rounds)
    result["statistics_core_seconds"] = spent.median
    result["statistics_least"], result["statistics_most"] = spent.least, spent.most
    return result


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(__doc__, argv)
    torch.set_num_threads(1)
    result = measure(*((32, 2) if arguments.quick else (128, 3)))
    print(f"PNG of {STORED} px, EfficientNet-Lite0 at 64 px:")
    for name, value in result.items():
        print(f"  {name:40s} {value:10.3f}")
    write_result(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

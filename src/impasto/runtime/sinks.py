"""Other places for metrics, by option: TensorBoard and Weights & Biases. Imported only when asked for."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy
from PIL import Image

from impasto.config import nearest
from impasto.runtime.log import MetricsError


class Sink(Protocol):
    """What a training loop tells about itself: metrics and named pictures, each at a count of images."""

    def write(self, images: int, metrics: Mapping[str, float]) -> None: ...

    def picture(self, images: int, name: str, picture: Image.Image) -> None: ...

    def close(self) -> None: ...


class TensorBoardSink:
    """Event files under RUN/tensorboard. Of a run resumed at `start_images` the later events are hidden.
    MetricsError without the package."""

    def __init__(self, run: Path, config: Mapping[str, Any], start_images: int) -> None:
        _import("tensorboard", "TensorBoard")
        module = _import("torch.utils.tensorboard", "TensorBoard", "tensorboard")
        # purge_step hides the steps from it on; the step of the checkpoint itself was written before it
        purge = start_images + 1 if start_images else None
        self._writer = module.SummaryWriter(str(run / "tensorboard"), purge_step=purge)

    def write(self, images: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=images)
        self._writer.flush()

    def picture(self, images: int, name: str, picture: Image.Image) -> None:
        pixels = numpy.asarray(picture.convert("RGB"))
        self._writer.add_image(name, pixels, global_step=images, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A run of the project 'impasto', named after the run directory and continued when it is resumed.
    MetricsError without the package."""

    def __init__(self, run: Path, config: Mapping[str, Any], start_images: int) -> None:
        self._wandb = _import("wandb", "Weights & Biases")
        run = Path(run).resolve()
        run.mkdir(parents=True, exist_ok=True)
        identity = run / "wandb-id.txt"
        known = identity.read_text(encoding="utf-8").strip() if identity.exists() else None
        self._run = self._wandb.init(
            project="impasto", name=run.name, id=known, resume="allow", dir=str(run), config=dict(config)
        )
        identity.write_text(f"{self._run.id}\n", encoding="utf-8")
        self._run.define_metric("images")
        self._run.define_metric("*", step_metric="images")

    def write(self, images: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"images": images, **metrics})

    def picture(self, images: int, name: str, picture: Image.Image) -> None:
        self._run.log({"images": images, name: self._wandb.Image(picture)})

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, Callable[[Path, Mapping[str, Any], int], Sink]] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
}


def make_sinks(
    names: Iterable[str], run: Path, config: Mapping[str, Any] | None = None, start_images: int = 0
) -> list[Sink]:
    """The named sinks, "tensorboard" or "wandb", or MetricsError if a name or its package is unknown."""
    names = list(names)
    for name in names:
        if name not in SINKS:
            raise MetricsError(f"'{name}' is not a place for metrics; {nearest(name, SINKS)}")
    return [SINKS[name](Path(run), config or {}, start_images) for name in names]


def _import(module: str, product: str, package: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({' '.join(str(error).split())})"
        raise MetricsError(
            f"{product} needs the package '{package}'{why}: pip install {package}, or leave the option out"
        ) from None

"""The families of models, side by side: what the command line and `impasto.load` ask of each.

Families share these functions, not base classes. A pipeline has `name`, `config` (with `resolution`),
`trained`, `provenance`, `summary()`, `generate`, `settings`, `to` and `save_pretrained`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from impasto.config import ConfigError, nearest
from impasto.runtime.model_directory import CONFIG


class ModelSize(Protocol):
    """A dataclass of numbers that can say itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def lines(self) -> list[str]: ...


@dataclass(frozen=True)
class Family:
    """What a family can do. `presets` {name: (build, summary)}; `options` are what its `generate` understands
    beyond prompts, seeds and batch size, by their names on the command line; `batch_size`, pictures per pass
    where nobody says."""

    name: str
    presets: Mapping[str, tuple[Callable[[], Any], str]]
    from_pretrained: Callable[[Path], Any]
    untrained: Callable[..., Any]
    read_document: Callable[[Mapping[str, Any]], tuple[Any, bool, dict[str, Any]]]
    measure: Callable[[Any], ModelSize]
    options: tuple[str, ...]
    batch_size: int


def families() -> dict[str, Family]:
    """All of them by name, as written in a model's config.json."""
    from impasto.aurora import analysis, pipeline
    from impasto.aurora.presets import PRESETS as AURORA_PRESETS
    from impasto.mars import analysis as mars_analysis
    from impasto.mars import pipeline as mars_pipeline
    from impasto.mars.directories import read_document as read_mars_document
    from impasto.mars.presets import PRESETS as MARS_PRESETS
    from impasto.mars.presets import pipeline_config

    aurora = Family(
        name=pipeline.FAMILY,
        presets={name: (preset.build, preset.summary) for name, preset in AURORA_PRESETS.items()},
        from_pretrained=pipeline.AuroraPipeline.from_pretrained,
        untrained=pipeline.AuroraPipeline.untrained,
        read_document=pipeline.read_document,
        measure=analysis.measure,
        options=("truncation", "truncation_mode", "pyramid"),
        batch_size=pipeline.BATCH_SIZE,
    )
    mars = Family(
        name=mars_pipeline.FAMILY,
        presets={
            name: (partial(pipeline_config, preset), preset.summary) for name, preset in MARS_PRESETS.items()
        },
        from_pretrained=mars_pipeline.MarsPipeline.from_pretrained,
        untrained=mars_pipeline.MarsPipeline.untrained,
        read_document=read_mars_document,
        measure=mars_analysis.measure_pipeline,
        options=("guidance", "temperature", "top_k", "top_p", "size"),
        batch_size=mars_pipeline.BATCH_SIZE,
    )
    return {family.name: family for family in (aurora, mars)}


def family_named(name: str, path: Path) -> Family:
    """The family that a model directory's config.json names; ConfigError for another."""
    known = families()
    if name not in known:
        raise ConfigError(f"{path / CONFIG}: unknown model family '{name}'; {nearest(name, known)}")
    return known[name]


def family_of_preset(name: str) -> Family | None:
    """The family that has a preset of this name."""
    return next((family for family in families().values() if name in family.presets), None)


def all_presets() -> dict[str, str]:
    """{preset: summary} of all families."""
    return {name: summary for family in families().values() for name, (_, summary) in family.presets.items()}


def check_options(family: Family, options: Mapping[str, Any], model: str) -> None:
    """ConfigError for an option of `generate` that another family has."""
    for option in options:
        if option not in family.options:
            own = ", ".join(f"--{known.replace('_', '-')}" for known in family.options)
            raise ConfigError(
                f"--{option.replace('_', '-')} means nothing to '{model}', a model of the family "
                f"{family.name}; it knows {own}"
            )

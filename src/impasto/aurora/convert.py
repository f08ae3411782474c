"""Official checkpoint files to model directories."""

import json
from pathlib import Path

from impasto.aurora.config import AuroraConfig
from impasto.aurora.official import RELEASED_CONSTRUCTOR, from_official, read_official
from impasto.aurora.pipeline import AuroraPipeline


def official_to_directory(
    source: Path, target: Path, constructor_file: Path | None, text_encoder: str
) -> None:
    """Read an official file, check every key against the constructor's options, write a model directory.

    constructor_file: JSON with the released constructor's options (or an object that holds them under
    "constructor"); the published 64x64 model's without it. Raises ValueError or ConfigError in one line.
    """
    constructor = RELEASED_CONSTRUCTOR
    if constructor_file is not None:
        try:
            constructor = json.loads(constructor_file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{constructor_file} is not JSON: {error}") from None
        constructor = constructor.get("constructor", constructor)
    generator = from_official(read_official(source), constructor)
    config = AuroraConfig(text_encoder=text_encoder, generator=generator.config)
    AuroraPipeline(generator, config, name=target.name).save_pretrained(target, _card(target.name, config))


def _card(name: str, config: AuroraConfig) -> str:
    side = config.generator.resolution
    return (
        f"# {name}\n\nAurora generator, {side}x{side} px, converted from a checkpoint in the format of the "
        "authors' release (release form: the published network, one sample at a time).\n\n"
        "The authors license their code under MIT and state that it is for research purposes only; the "
        f"weights are theirs.\n\nText encoder: `{config.text_encoder}`.\n"
    )

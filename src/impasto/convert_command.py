"""`impasto convert`: other people's checkpoints to model directories, and Aurora's back. Heavy imports live
inside, so that --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

LAYOUTS = ("taming", "diffusers", "llamagen", "janus")


def add_convert(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto convert`."""
    verb.description = (
        "Official Aurora checkpoint (.pth or .safetensors) to a model directory; or, when SOURCE is a model "
        "directory, to an official .pth that the released scripts load. With --tokenizer: an image tokenizer "
        "of taming-transformers (or openMUSE), diffusers (VQModel, aMUSEd), LlamaGen or Janus to a directory "
        "for `impasto train mars-.../stage1 --set tokenizer=TARGET`."
    )
    verb.set_defaults(run=_convert)
    verb.add_argument("source", metavar="SOURCE", help="foreign checkpoint, or a model directory")
    verb.add_argument("target", metavar="TARGET", help="model directory to write, or a .pth file")
    verb.add_argument(
        "--tokenizer",
        choices=("auto", *LAYOUTS),
        help="SOURCE is an image tokenizer, of this layout or (auto) of that which its names tell",
    )
    verb.add_argument(
        "--constructor",
        metavar="JSON",
        help="file with the released constructor's options, if not the 64x64 model",
    )
    verb.add_argument(
        "--text-encoder",
        default="clip:openai/clip-vit-large-patch14",
        metavar="NAME",
        help="encoder to record: clip:DIRECTORY_OR_HUB_NAME (default the published CLIP ViT-L/14)",
    )


def _convert(arguments: argparse.Namespace) -> int:
    source, target = Path(arguments.source), Path(arguments.target)
    if arguments.tokenizer is not None:
        _tokenizer(source, target, arguments.tokenizer)
    else:
        _aurora(source, target, arguments)
    print(f"wrote {target}")
    return 0


def _tokenizer(source: Path, target: Path, layout: str) -> None:
    from impasto.mars.vq_adapters import foreign_to_directory

    foreign_to_directory(source, target, None if layout == "auto" else layout)  # type: ignore[arg-type]


def _aurora(source: Path, target: Path, arguments: argparse.Namespace) -> None:
    from impasto.aurora.convert import official_to_directory
    from impasto.aurora.official import write_official
    from impasto.aurora.pipeline import AuroraPipeline
    from impasto.runtime.model_directory import is_model_directory

    if is_model_directory(source):
        if target.suffix != ".pth":
            raise ValueError(f"{source} is a model directory; name a .pth file to write, not {target}")
        write_official(AuroraPipeline.from_pretrained(source).generator, target)
    else:
        constructor = Path(arguments.constructor) if arguments.constructor else None
        official_to_directory(source, target, constructor, arguments.text_encoder)

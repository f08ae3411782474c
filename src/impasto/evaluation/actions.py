"""What `impasto evaluate` does with its options, as `command` declares them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from impasto.command_options import drawing_options, progress_bars, ranks_of, usable_device, usable_dtype
from impasto.config import ConfigError, override
from impasto.data.options import DatasetOptions
from impasto.evaluation.blind import score_blind
from impasto.evaluation.compbench import CompBenchOptions, evaluate_compbench
from impasto.evaluation.drawing import draw_with_model
from impasto.evaluation.model_actions import OF_MODELS, ask_model, make_blind, put_side_by_side
from impasto.evaluation.pictures import evaluate_pictures, holds_pictures
from impasto.evaluation.protocols import PICTURES, ProtocolOptions, evaluate_protocol, is_model
from impasto.evaluation.scenes import evaluate_model
from impasto.evaluation.sets import SetOptions, evaluate_sets
from impasto.evaluation.table import compare_reports
from impasto.families import check_options
from impasto.loading import describe
from impasto.metrics import extractors
from impasto.metrics.alignment import DISTRACTORS, load_scorer, retrieval_sentence
from impasto.metrics.caption_lists import read_captions
from impasto.metrics.feature_cache import default_cache
from impasto.metrics.features import EXTRACTOR
from impasto.metrics.retrieval import PICTURES as RETRIEVAL_PICTURES
from impasto.metrics.retrieval import SIDE as RETRIEVAL_SIDE
from impasto.metrics.retrieval import retrieval_of_set
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text

PICTURES_OF_COMPBENCH = 10  # of each prompt, by the benchmark's rules


def run(arguments: argparse.Namespace) -> None:
    """Do what the options ask for. Raises one-line errors: ConfigError for options that do not go together,
    and those of the protocol."""
    out = Path(arguments.out)
    asked = {
        "MODEL_OR_IMAGE_DIR": arguments.target,
        "--compare": arguments.compare,
        "--models": arguments.models,
        "--blind": arguments.blind,
        "--blind-answers": arguments.blind_answers,
        "--command": arguments.command,
    }
    given = [name for name, value in asked.items() if value is not None]
    if not given and arguments.scorer is not None and arguments.reference is not None:
        _evaluate_scorer(arguments)
        return
    if len(given) != 1:
        raise ConfigError(
            f"give one of {', '.join(asked)}" + (f", not {' and '.join(given)}" if given else "")
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    if arguments.sweep is not None and arguments.models is None:
        raise ConfigError("--sweep goes with --models")
    if arguments.models is not None:
        put_side_by_side(arguments)
        return
    if arguments.blind is None:
        _drawing(arguments)
    with_protocol = arguments.protocol not in (None, "scenes", "compbench", *OF_MODELS)
    if arguments.reference is not None and arguments.target is None and arguments.command is None:
        raise ConfigError(f"--reference goes with a folder of pictures, not with {given[0]}")
    if arguments.compare is not None:
        print(compare_reports(arguments.compare, out), end="")
        print(f"wrote {out / 'compare.md'} and compare.html", file=sys.stderr)
    elif arguments.blind is not None:
        if arguments.pairs is not None and arguments.pairs < 1:
            raise ConfigError(f"--pairs {arguments.pairs} should be at least 1")
        print(make_blind(arguments, lambda: _drawing(arguments)), end="")
    elif arguments.blind_answers is not None:
        print(score_blind(Path(arguments.blind_answers), out), end="")
    elif arguments.protocol == "compbench":
        _evaluate_compbench(arguments)
    elif arguments.protocol in OF_MODELS:
        ask_model(arguments, _drawing(arguments))
    elif with_protocol:
        _evaluate_protocol(arguments)
    elif arguments.command is not None:
        raise ConfigError("--command needs --protocol train-10k, coco-30k or openglyphs")
    elif arguments.reference is not None:
        _refuse_without_protocol(arguments)
        _evaluate_sets(arguments)
    else:
        _refuse_without_protocol(arguments)
        _refuse_without_reference(arguments)
        _evaluate_scenes(arguments)


def _evaluate_scenes(arguments: argparse.Namespace) -> None:
    ranks = ranks_of(arguments)
    out, target = Path(arguments.out), Path(arguments.target)
    scorer, distractors = _scorer(arguments)
    if holds_pictures(target):
        if ranks.world_size > 1:
            raise ConfigError("pictures are scored in one process: start it without torchrun")
        table = evaluate_pictures(target, out, scorer=scorer, distractors=distractors, seed=arguments.seed)
    elif target.is_dir() and not is_model(arguments.target):
        raise ConfigError(f"{target} holds neither a model (config.json, model.safetensors) nor PNG pictures")
    else:
        table = evaluate_model(
            arguments.target,
            out,
            count=500 if arguments.count is None else arguments.count,
            seed=arguments.seed,
            device=arguments.device,
            dtype=usable_dtype(arguments.dtype, arguments.device),
            settings=arguments.settings,
            scorer=scorer,
            distractors=distractors,
            ranks=ranks,
            drawing=_drawing(arguments),
        )
    _print_from(ranks, f"{table}\nwrote {out / 'report.md'}, report.json and sheets")


def _evaluate_sets(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    ranks, extractor, options, scorer = _measuring(arguments)
    with progress_bars() as progress:
        table = evaluate_sets(arguments.target, extractor, out, options, progress, scorer, ranks)
    _print_from(ranks, f"{table}\nwrote {out / 'report.html'}, report.md, report.json and sheets")


def _evaluate_protocol(arguments: argparse.Namespace) -> None:
    if arguments.reference is None:
        raise ConfigError(f"--protocol {arguments.protocol} needs --reference DIR, the real pictures")
    for name in ("count", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} should be at least 1")
    out = Path(arguments.out)
    ranks, extractor, sets, scorer = _measuring(arguments)
    options = ProtocolOptions(
        name=arguments.protocol,
        target=arguments.target,
        sets=sets,
        command=arguments.command,
        captions=Path(arguments.captions) if arguments.captions else None,
        own_references=arguments.own_references,
        count=arguments.count,
        batch=arguments.batch_size or 32,
        dtype=usable_dtype(arguments.dtype, arguments.device),
        drawing=_drawing(arguments),
    )
    with progress_bars() as progress:
        table = evaluate_protocol(options, extractor, out, progress, scorer, ranks)
    _print_from(ranks, f"{table}\nwrote {out}: reports, sheets, and the pictures that were drawn")


def _evaluate_compbench(arguments: argparse.Namespace) -> None:
    if arguments.reference is not None:
        raise ConfigError("--protocol compbench has no --reference")
    drawn = arguments.target is not None and is_model(arguments.target)
    if not drawn and (arguments.target is None or not holds_pictures(Path(arguments.target))):
        raise ConfigError(
            "--protocol compbench takes a MODEL or a folder of PNG pictures that say their prompts"
        )
    if drawn != (arguments.captions is not None):
        raise ConfigError(
            "--protocol compbench of a MODEL needs --captions FILE, the prompts; of pictures, none"
        )
    categories = [value for value in arguments.settings if value.startswith("category=")]
    if not categories:
        raise ConfigError("--protocol compbench needs --set category=color, shape, texture, spatial ...")
    options = override(CompBenchOptions(category="non_spatial"), arguments.settings)
    scorer, _ = _scorer(arguments)
    out, device = Path(arguments.out), usable_device(arguments.device)
    with progress_bars() as progress:
        folder = Path(arguments.target)
        if drawn:
            folder, count = (
                out / PICTURES,
                PICTURES_OF_COMPBENCH if arguments.count is None else arguments.count,
            )
            prompts = read_captions(Path(arguments.captions)).captions
            draw_with_model(
                arguments.target,
                tuple(prompt for prompt in prompts for _ in range(count)),
                folder,
                ranks=Ranks.from_environment(device),
                seed=arguments.seed,
                batch=arguments.batch_size or 32,
                dtype=usable_dtype(arguments.dtype, device),
                options=_drawing(arguments),
                progress=progress,
            )
        line = evaluate_compbench(
            folder,
            out,
            options,
            clip=scorer,
            device=device,
            made_with=_training_networks(arguments.made_by),
            progress=progress,
        )
    print(line, end="")


def _evaluate_scorer(arguments: argparse.Namespace) -> None:
    """How well the scorer finds the captions of a set; options of the set are --set NAME=VALUE."""
    scorer, _ = _scorer(arguments)
    options = override(DatasetOptions(), arguments.settings)
    side, seed = arguments.resize or RETRIEVAL_SIDE, arguments.seed
    count = arguments.count or RETRIEVAL_PICTURES
    found = retrieval_of_set(scorer, arguments.reference, options, side=side, count=count, seed=seed)
    told = {"scorer": scorer.told(), "set": arguments.reference, "side": side, "seed": seed, **found}
    atomic_write_text(Path(arguments.out) / "report.json", json.dumps(told, indent=2) + "\n")
    print(f"{retrieval_sentence(arguments.reference, found)}.")


def _drawing(arguments: argparse.Namespace) -> dict[str, Any]:
    """How a model draws. ConfigError where none does, or its family does not know an option."""
    options = drawing_options(arguments)
    if options:
        if arguments.target is None or not is_model(arguments.target):
            name = next(iter(options)).replace("_", "-")
            raise ConfigError(f"--{name} means something only with a MODEL, which then draws so")
        check_options(describe(arguments.target, []).family, options, arguments.target)
    return options


def _measuring(arguments: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """This process among its ranks, the extractor, the options of sets, the scorer or None."""
    ranks = ranks_of(arguments)
    cache = Path(arguments.cache) if arguments.cache else default_cache()
    options = SetOptions(
        reference=arguments.reference,
        training=arguments.training,
        side=arguments.resize,
        allow_small=arguments.allow_small,
        seed=arguments.seed,
        cache=None if arguments.no_cache else cache,
        training_networks=_training_networks(arguments.made_by),
    )
    scorer, distractors = _scorer(arguments)
    extractor = extractors.load_extractor(arguments.extractor or EXTRACTOR, arguments.device)
    return ranks, extractor, replace(options, distractors=distractors), scorer


def _print_from(ranks: Any, text: str) -> None:
    if ranks.is_main:
        print(text)
    ranks.close()


def _scorer(arguments: argparse.Namespace) -> tuple[Any, int]:
    """The scorer asked for, None for none, and the number of distractors."""
    if arguments.scorer is None:
        for name in ("prompt_prefix", "distractors"):
            if getattr(arguments, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} means something only with --scorer SPEC")
        return None, DISTRACTORS
    count = DISTRACTORS if arguments.distractors is None else arguments.distractors
    if count < 1:
        raise ConfigError(f"--distractors {count} should be at least 1")
    device = usable_device(arguments.device)
    return load_scorer(arguments.scorer, arguments.prompt_prefix or "", device), count


def _training_networks(model: str | None) -> dict[str, str] | None:
    return None if model is None else describe(model, []).provenance.get("training_networks", {})


def _refuse_without_protocol(arguments: argparse.Namespace) -> None:
    for name in ("captions", "own_references", "batch_size"):
        if getattr(arguments, name):
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} means something only with another --protocol than scenes")


def _refuse_without_reference(arguments: argparse.Namespace) -> None:
    """An option that would do nothing is a mistake."""
    asked = {
        "--training": arguments.training,
        "--extractor": arguments.extractor,
        "--resize": arguments.resize,
        "--allow-small": arguments.allow_small or None,
        "--cache": arguments.cache,
        "--made-by": arguments.made_by,
    }
    for name, value in asked.items():
        if value is not None:
            raise ConfigError(f"{name} means something only with --reference DIR")

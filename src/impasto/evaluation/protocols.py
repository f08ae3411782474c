"""`impasto evaluate --protocol NAME`: prompts from a protocol, pictures by a model, by a command or from a
folder, and a report on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from impasto.config import ConfigError
from impasto.evaluation.drawing import check_prompts, draw_with_command, draw_with_model
from impasto.evaluation.sets import SetOptions, evaluate_sets
from impasto.loading import describe
from impasto.metrics.alignment import Scorer
from impasto.metrics.extractors import Extractor
from impasto.metrics.features import refuse_training_networks
from impasto.metrics.picture_sets import ALONE
from impasto.metrics.picture_sources import open_pictures
from impasto.metrics.protocols import PROTOCOLS, Plan, make_plans
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.model_directory import is_model_directory
from impasto.runtime.report import run_of

PICTURES = "pictures"  # in the folder of the report


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """`target`: a model or a folder of pictures, None with a `command` that writes them. `sets`: how the sets
    are measured; its `reference` names the real pictures, its `side` None stands for the protocol's.
    `drawing`: options of the model's `generate`."""

    name: str
    target: str | None
    sets: SetOptions
    command: str | None = None
    captions: Path | None = None
    own_references: bool = False
    count: int | None = None
    batch: int = 32
    dtype: Any = None
    drawing: Mapping[str, Any] = field(default_factory=dict)


def evaluate_protocol(
    options: ProtocolOptions,
    extractor: Extractor,
    out: Path,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    scorer: Scorer | None = None,
    ranks: Ranks = ALONE,
) -> str:
    """Draw what is missing, measure, and write a report; of a protocol with parts one each, in folders,
    and a report.md of all tables. Returns the tables; other ranks than the main one return nothing. Raises
    ConfigError or DataError, in one line."""
    reference = options.sets.reference
    assert isinstance(reference, str)
    plans = make_plans(
        options.name,
        reference,
        captions=options.captions,
        own_references=options.own_references,
        count=options.count,
        allow_small=options.sets.allow_small,
    )
    given = _training_networks(options)
    for network in (extractor, scorer):
        if network is not None:  # before anything is drawn
            refuse_training_networks(network.name, network, given or {})
    tables = []
    for plan in plans:
        place = out / plan.part
        pictures, made = _pictures(options, plan, place, ranks, progress)
        preset = {
            "name": options.name,
            "part": plan.part,
            "pictures": len(plan.prompts),
            "captions_sha256": plan.captions_sha256,
            "own_references": options.own_references,
            **made,
        }
        known = options.sets.training_networks if given is None else given
        sets = replace(
            options.sets,
            reference=plan.reference,
            side=options.sets.side or PROTOCOLS[options.name].side,
            preset=preset,
            run=run_of(Path(options.target)) if options.target and is_model(options.target) else None,
            training_networks=known,
        )
        table = evaluate_sets(pictures, extractor, place, sets, progress, scorer, ranks)
        tables.append(f"## {plan.part.replace('_', ' ')}\n\n{table}" if plan.part else table)
    text = "\n".join(tables)
    if ranks.is_main and len(plans) > 1:
        atomic_write_text(out / "report.md", f"# {options.name}\n\n{text}")
    return text


def _pictures(
    options: ProtocolOptions,
    plan: Plan,
    place: Path,
    ranks: Ranks,
    progress: Callable[[str, int, int], None],
) -> tuple[str, Mapping[str, Any]]:
    """The folder of pictures for a plan, and how they came to be."""
    folder, seed = place / PICTURES, options.sets.seed
    if options.command is not None:
        return str(folder), draw_with_command(options.command, plan.prompts, folder, ranks=ranks, seed=seed)
    assert options.target is not None
    if not is_model(options.target):
        source = options.target
        if plan.part and (Path(source) / plan.part).is_dir():
            source = str(Path(source) / plan.part)
        check_prompts(open_pictures(source), plan.prompts)
        return source, {"folder": source}
    made = draw_with_model(
        options.target,
        plan.prompts,
        folder,
        ranks=ranks,
        seed=seed,
        batch=options.batch,
        dtype=options.dtype,
        options=options.drawing,
        progress=progress,
    )
    return str(folder), made


def is_model(target: str) -> bool:
    """Whether what is evaluated is a model, by its directory or name, and no folder of pictures."""
    path = Path(target)
    return is_model_directory(path) or not path.exists()


def _training_networks(options: ProtocolOptions) -> Mapping[str, str] | None:
    if options.target is None or not is_model(options.target):
        return options.sets.training_networks
    found = describe(options.target, [])
    if options.sets.training_networks is not None:
        raise ConfigError("--made-by goes with pictures that are there already, not with a model")
    return found.provenance.get("training_networks", {})

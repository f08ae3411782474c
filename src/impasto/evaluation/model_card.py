"""The README of a model's folder: what it is, how it came to be, what it scores, what it cannot do."""

from typing import Any

import impasto
from impasto.data.scene_source import SceneOptions
from impasto.runtime.lineage import images_before, lineage


def model_card(pipe: Any, options: SceneOptions, table: str) -> str:
    """Markdown; `table`: what the scenes protocol measured."""
    told = pipe.provenance
    networks = ", ".join(
        f"{role} `{digest[:12]}`" for role, digest in told.get("training_networks", {}).items()
    )
    dataset, earlier = told.get("data", {}).get("dataset"), images_before(told)
    foreign = any("dataset" in one.get("data", {}) or "file" in one for one in lineage(told))
    facts = [
        pipe.summary(),
        f"Trained with the run `{told.get('preset', 'unknown')}` of impasto {impasto.__version__} on "
        f"{told.get('images_seen', 0):,} "
        + (_dataset_fact(dataset) if dataset else _scenes_fact(options))
        + (f" Before that, {earlier:,} in earlier runs." if earlier else ""),
        f"Other networks used in training, by hash: {networks or 'none'}.",
        "Licence: what the licences of the training pictures allow; impasto does not know them."
        if foreign
        else "Licence: Apache-2.0. The training pictures were drawn by a program, nobody's work is in them.",
    ]
    use = f'    import impasto\n    impasto.load("{pipe.name}")("a red circle", num_images=4)'
    limits = (
        "It knows the words and shapes of its captions only; anything else gives a picture of nothing in "
        "particular."
    )
    if not foreign:
        limits += " It has seen no photograph, no person and no text."
    parts = [f"# {pipe.name}", *facts, use, "## Measured", table.strip(), "## Limits", limits]
    return "\n\n".join(parts) + "\n"


def _scenes_fact(options: SceneOptions) -> str:
    return (
        f"drawings of impasto's scenes and their captions: "
        f"coloured shapes, up to {options.max_objects} in a picture, "
        + ("in the middle where it is alone, " if options.lone_spread == 0 else "")
        + f"{'with' if options.textures else 'without'} textures, "
        f"captions in {' and '.join(dict.fromkeys(options.languages))}."
    )


def _dataset_fact(dataset: dict[str, Any]) -> str:
    return (
        f"samples of a set of {dataset['samples']:,} pictures with captions ({dataset['format']}, "
        f"fingerprint {dataset['fingerprint'][:12]}). The scenes below are not what it was trained on."
    )

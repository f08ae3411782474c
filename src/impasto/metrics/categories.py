"""The six categories of scenes, T2I-CompBench's, asked of several painters alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import CATEGORIES, SPLITS, score_images
from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.scenes import EVALUATION_STREAM, SEEN_SET, UNSEEN_SET, shuffled

ANY_SIDE = 64  # of pictures that are not drawn here
SPLIT_OF = {SEEN_SET: SPLITS[0], UNSEEN_SET: SPLITS[1]}
Prompts = dict[str, dict[str, list[str]]]  # {set: {category: prompts}}


@dataclass(frozen=True)
class CategoryScores:
    """One painter on one set: the oracle's overall score by category, and of all prompts; `unreadable` of so
    many `pictures`."""

    categories: dict[str, Estimate]
    overall: Estimate
    unreadable: int
    pictures: int


def category_prompts(options: SceneOptions, count: int) -> Prompts:
    """`count` prompts of each category that the options allow, of seen and of unseen combinations, from the
    evaluation's own stream: the same for everybody."""
    wanted = options.categories or CATEGORIES
    return {
        name: {
            category: SceneSource(
                ANY_SIDE, replace(options, categories=(category,)), seed=EVALUATION_STREAM, split=split
            ).captions(count)
            for category in wanted
            if _possible(category, options)
        }
        for name, split in SPLIT_OF.items()
    }


def judge_categories(
    pictures: Mapping[str, Sequence[Image.Image]],
    prompts: Mapping[str, Sequence[str]],
    *,
    turned: bool = False,
) -> CategoryScores:
    """Score the pictures of one set, by category. turned: against shuffled prompts of the category, which is
    what chance gives."""
    found: dict[str, list[float]] = {}
    unreadable = 0
    for category, asked in prompts.items():
        summary = score_images(pictures[category], shuffled(asked) if turned else asked)
        found[category] = [score.overall for score in summary.scores]
        unreadable += summary.unreadable
    everything = [value for values in found.values() for value in values]
    return CategoryScores(
        categories={category: bootstrap(values) for category, values in found.items()},
        overall=bootstrap(everything),
        unreadable=unreadable,
        pictures=len(everything),
    )


def _possible(category: str, options: SceneOptions) -> bool:
    """Whether scenes of such a category exist in the world asked for."""
    if category == "texture":
        return options.textures
    return options.max_objects > 1 or category not in ("spatial", "complex")

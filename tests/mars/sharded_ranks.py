"""Run by test_sharding under two ranks, `sharded_ranks.py HOME`, and imported by it for one: the same runs
with the model shared out and whole. The main rank writes what came out."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.config import override, to_dict
from impasto.mars import trainer
from impasto.mars.codes import CodeStore, prepare_codes, read_codes
from impasto.mars.convert import language_state, visual_state
from impasto.mars.directories import (
    LANGUAGE_FAMILY,
    TOKENIZER_FAMILY,
    LanguagePart,
    load_language,
    load_tokenizer,
    save_directory,
)
from impasto.mars.initial import new_model
from impasto.mars.runs import debug_stage1, debug_tokenizer
from impasto.mars.sampling import caption_images, generate_images
from impasto.mars.texts import fit_tokeniser
from impasto.mars.training_config import StageRun
from impasto.mars.training_state import StageState
from impasto.mars.vq import VQTokenizer
from impasto.runtime import sharded_checkpoint
from impasto.runtime.checkpoint import CheckpointError, checkpoint_path
from impasto.runtime.dist import Ranks, RanksError
from impasto.runtime.guards import NonFiniteGuard
from impasto.runtime.sharding import dropped_afterwards, is_sharded, own_rows, row_range, whole
from tests.mars.models import scatter

STEPS, BATCH = 20, 8
HALF, END = STEPS // 2 * BATCH, STEPS * BATCH  # pictures seen
ODD = 45  # rows that two ranks cannot halve


def stage_run(home: Path, *settings: str) -> StageRun:
    """The debug run over the parts in `home`, long enough."""
    run = debug_stage1()
    tokens = END * run.image_length
    every = [f"training.{name}={tokens}" for name in ("tokens", "sample_every", "checkpoint_every")]
    parts = [f"{name}={home / name}" for name in ("tokenizer", "language")]
    return override(run, [*parts, *every, f"model.language.feed_forward={ODD}", *settings])


def write_parts(home: Path) -> None:
    """An image tokenizer, a language model and pictures' codes; random, the same every time."""
    run, config = stage_run(home), debug_tokenizer().model
    torch.manual_seed(1)
    weights = VQTokenizer(config).state_dict()
    save_directory(home / "tokenizer", TOKENIZER_FAMILY, {"model": to_dict(config)}, weights, "")
    model = new_model(run.model, seed=2)
    scatter(model, 0.1, 3)
    pieces = fit_tokeniser(["a red circle", "一个红色的圆"], run.model.language.vocabulary)
    state, document = language_state(model), {"model": to_dict(run.model.language)}
    save_directory(home / "language", LANGUAGE_FAMILY, document, state, "", pieces)
    prepare_codes(home, run, load_tokenizer(run.tokenizer))


def fresh(home: Path, ranks: Ranks, dtype: torch.dtype, *settings: str) -> tuple[StageState, CodeStore]:
    run = stage_run(home, "training.shard_model=true", *settings)
    tokenizer, language = load_tokenizer(run.tokenizer), load_language(run.language)
    tensors = {name: tensor.to(dtype) for name, tensor in language.state.items()}
    language = LanguagePart(tensors, language.config, language.tokeniser, {})
    state = StageState.fresh(run, ranks.device, language, tokenizer, ranks=ranks)
    return state, read_codes(home, run, tokenizer)


def go_on(state: StageState, pictures: CodeStore, ranks: Ranks, images: int) -> StageState:
    while state.images < images:
        trainer.step(state, pictures, ranks)
    return state


def weights(state: StageState) -> dict[str, Tensor]:
    """Of the visual expert, gathered."""
    return {name: whole(tensor).clone() for name, tensor in visual_state(state.model).items()}


def drawings(state: StageState) -> dict[str, Tensor]:
    """Pictures and captions: passes without a backward, after which nothing stays gathered."""
    with dropped_afterwards(state.model):
        codes = generate_images(state.model, [[5, 6, 7], [8]], [0, 1], guidance=2.0)
        said = caption_images(state.model, codes, max_tokens=4)
    return {"codes": codes, **{f"caption {n}": torch.tensor(text) for n, text in enumerate(said)}}


def first_gradients(home: Path, ranks: Ranks, dtype: torch.dtype, *settings: str) -> dict[str, Tensor]:
    """After clipping, gathered; with them the norm before it."""
    state, pictures = fresh(home, ranks, dtype, *settings)
    state.optimizer.zero_grad = lambda **_: None  # type: ignore[method-assign]
    trainer.step(state, pictures, ranks)
    named = {n: whole(p.grad) for n, p in state.model.named_parameters() if p.grad is not None}
    return {**named, "norm": torch.tensor(state.means.take(Ranks())["gradient/visual"])}


def drops_on_one_rank(seed: int, place: int, chance: float) -> bool:
    """All captions of the second of two ranks, and no other."""
    return place % 2 == 1


VARIANTS: dict[str, tuple[torch.dtype, tuple[str, ...]]] = {
    "float32": (torch.float32, ()),
    "dropped": (torch.float64, ("training.prefix_cache_mebibytes=0",)),
    "accumulated": (torch.float64, ("training.micro_batch=MICRO", "training.image_to_text=0.5")),
    "recomputed": (torch.float64, ("training.checkpoint_activations=true",)),
    "shared": (torch.float64, ("model.visual.experts=shared",)),
    "bfloat16": (torch.float32, ("training.bfloat16=true", "training.checkpoint_activations=true")),
}


def variant(home: Path, ranks: Ranks, name: str) -> dict[str, Tensor]:
    """First gradients under some switch. Two ranks accumulate passes of two pictures, one rank of four."""
    dtype, settings = VARIANTS[name]
    settings = tuple(text.replace("MICRO", str(4 // ranks.world_size)) for text in settings)
    usual = trainer._dropped
    if name == "dropped":
        trainer._dropped = drops_on_one_rank
    try:
        return first_gradients(home, ranks, dtype, *settings)
    finally:
        trainer._dropped = usual


def layout(state: StageState) -> None:
    """Everything is sharded, rows that cannot be halved too, and the optimiser knows."""
    for name, parameter in state.model.named_parameters():
        assert is_sharded(parameter), name
        start, stop = row_range(parameter)
        assert own_rows(parameter).shape == (stop - start, *parameter.shape[1:]), name
    assert any(parameter.shape[0] == ODD for parameter in state.model.parameters())


def failures(home: Path, ranks: Ranks) -> None:
    """A rank that cannot write, and numbers that are not finite on one rank: all ranks know."""
    state, _ = fresh(home, ranks, torch.float32)
    state.images = 1
    usual = sharded_checkpoint._write_parts

    def refuse(*arguments: object) -> dict:
        if ranks.rank == 1:
            raise OSError(28, "No space left on device")
        return usual(*arguments)

    sharded_checkpoint._write_parts = refuse
    try:
        state.save(home / "two")
    except CheckpointError as error:
        assert "rank 1 could not save" in str(error) and "\n" not in str(error)
    else:
        raise AssertionError("saved")
    finally:
        sharded_checkpoint._write_parts = usual
    guard = NonFiniteGuard()
    gradient = torch.tensor([1.0, float("nan") if ranks.rank == 1 else 1.0])
    assert guard.clean([gradient], total=ranks.total) == 1 and guard.consecutive == 1
    assert guard.clean([gradient], total=ranks.total) == 0 and guard.consecutive == 0


def die_while_saving(home: Path, ranks: Ranks) -> None:
    """The last act: the second rank is gone when its rows should be written."""
    state, _ = fresh(home, ranks, torch.float32)
    state.images = 2

    def die(*_: object) -> dict:
        os._exit(9)

    if ranks.rank == 1:
        sharded_checkpoint._write_parts = die
    try:
        state.save(home / "two")
    except RanksError:
        print("the other rank is gone")


def main(home: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.from_environment("cpu")

    def report(name: str, make: Callable[[], dict[str, Tensor]]) -> None:
        tensors = make()
        if ranks.is_main:
            save_file(
                {key: tensor.contiguous() for key, tensor in tensors.items()}, home / f"{name}.safetensors"
            )

    state, pictures = fresh(home, ranks, torch.float64)
    layout(state)
    go_on(state, pictures, ranks, HALF).save(home / "two")
    go_on(state, pictures, ranks, END).save(home / "two")
    report("two", lambda: weights(state))
    report("drawings", lambda: drawings(state))
    layout(state)
    for origin, result in (("two", "again"), ("one", "from_one")):
        resumed, _ = fresh(home, ranks, torch.float64)
        resumed.restore(checkpoint_path(home / origin, HALF))
        go_on(resumed, pictures, ranks, END).save(home / result)
    for name in VARIANTS:
        report(name, lambda name=name: variant(home, ranks, name))
    failures(home, ranks)
    die_while_saving(home, ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

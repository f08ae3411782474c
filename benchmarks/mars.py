"""How fast MARS draws, against `generate` of transformers with the same weights; and the memory it needs.

    python -m benchmarks.mars [--quick] [--json FILE]

The reference is the base language model itself, a Qwen2 of random weights: its `generate` draws as many
tokens, at the same guidance, temperature and top-k. A token of MARS costs what a token of its base costs, one
set of weights of the same shapes and as many output rows, so the work is alike; but the reference draws text,
and it runs the two branches of guidance one after the other, as the library does. `doubled` leaves guidance
out and gives `generate` both branches as one batch of twice the rows: what the library could do at best.

Speeds are ratios of medians within one run of ways that take turns, by wall clock and by processor time (the
fairer one on a busy machine). The bound is the time to read, once a step, all weights and keys and values
that the step needs, at the bandwidth of a copy measured here.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import transformers
from benchmarks.common import (
    Spent,
    Spread,
    arguments_of,
    processor_and_system_seconds,
    resident_memory,
    turns,
    write_result,
)
from transformers import Qwen2Config, Qwen2ForCausalLM

from impasto.mars.convert import from_hf
from impasto.mars.decoding import move_language
from impasto.mars.sampling import SamplingSettings, generate_images
from impasto.mars.semvie import MarsModel

GUIDANCE, TOP_K, CAPTION = 3.0, 1000, 12  # CAPTION: tokens of a prompt
COPY_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Size:
    """Of the base model, the pictures and the batches."""

    width: int
    layers: int
    feed_forward: int
    rows: int  # output rows: text pieces of the base, codes of MARS
    sides: tuple[int, ...]
    batches: tuple[int, ...]


FULL = Size(512, 6, 1536, 4096, (8, 16), (1, 8))  # the layers of mars-tiny, fewer of them; 83 MB of weights
QUICK = Size(64, 2, 96, 128, (2, 3), (1, 2))


@dataclass(frozen=True)
class Seconds:
    wall: Spread
    processor: Spent


@dataclass(frozen=True)
class Speed:
    """One batch and grid. Seconds are of a whole batch of pictures, reading the prompts included."""

    batch: int
    tokens: int
    ours: Seconds
    transformers: Seconds
    doubled: Seconds
    bytes_per_step: int
    share_of_bound: float

    @property
    def row(self) -> str:
        ours = self.ours
        rate = self.batch * self.tokens / ours.wall.median
        ratios = [
            f"{theirs.wall.median / ours.wall.median:.2f} "
            f"({theirs.processor.median / ours.processor.median:.2f})"
            for theirs in (self.transformers, self.doubled)
        ]
        share = f"{100 * self.share_of_bound:.0f} %"
        return f"| {self.batch} | {self.tokens} | {rate:.0f} | {' | '.join(ratios)} | {share} |"


def base_model(size: Size) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=size.rows,
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=max(size.width // 64, 2),
        num_key_value_heads=max(size.width // 128, 1),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).eval()


def mars_model(base: Qwen2ForCausalLM, size: Size) -> MarsModel:
    state = base.state_dict()
    return from_hf(state, base.config.to_dict(), size.rows, grids=size.sides).eval()


def timed(work: Callable[[], object]) -> tuple[float, tuple[float, float]]:
    """Seconds by the clock, and those of the processor with the system's part."""
    started = time.perf_counter()
    processor = processor_and_system_seconds(work)
    return time.perf_counter() - started, processor


def copy_bandwidth(size: int = COPY_BYTES) -> float:
    """Bytes read and written a second by the fastest of a few large copies."""
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    seconds = min(timed(lambda: target.copy_(source))[0] for _ in range(6))
    return 2 * size / seconds


def bytes_per_step(model: MarsModel, rows: int, tokens: int) -> int:
    """Read by one step of drawing: the visual expert, the shared norms, the rows of the codes, and on the
    average the keys and values of half a picture after its caption, for all rows."""
    weights = sum(t.numel() * t.element_size() for t in model.layers.state_dict().values())
    for layer in model.layers:
        language = layer.language
        for part in (language.attention, language.feed_forward):
            weights -= sum(t.numel() * t.element_size() for t in part.state_dict().values())
    codes = model.visual.output_rows[: model.tokens.codes]
    language = model.config.language
    cache = 2 * language.layers * language.key_value_heads * language.head_dim * codes.element_size()
    return weights + codes.numel() * codes.element_size() + int(rows * cache * (CAPTION + tokens / 2))


def measure_speed(
    base: Qwen2ForCausalLM, model: MarsModel, level: int, batch: int, bandwidth: float, rounds: int
) -> Speed:
    tokens = model.config.image_length(level)
    prompts = torch.randint(1, base.config.vocab_size, (batch, CAPTION))
    captions, settings = prompts.tolist(), SamplingSettings(top_k=TOP_K)

    def ours() -> torch.Tensor:
        return generate_images(
            model, captions, list(range(batch)), level=level, guidance=GUIDANCE, settings=settings
        )

    def theirs(ids: torch.Tensor, **options: object) -> torch.Tensor:
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        mask = torch.ones_like(ids)
        return base.generate(ids, attention_mask=mask, do_sample=True, top_k=TOP_K, **length, **options)

    def guided() -> torch.Tensor:
        return theirs(prompts, guidance_scale=GUIDANCE)

    def doubled() -> torch.Tensor:
        return theirs(prompts.repeat(2, 1))

    spent = turns({"ours": ours, "guided": guided, "doubled": doubled}, rounds, timed)
    mine, reference, twice = (
        Seconds(Spread.of([wall for wall, _ in found]), Spent.of_both([processor for _, processor in found]))
        for found in spent.values()
    )
    read = bytes_per_step(model, 2 * batch, tokens)
    share = read / bandwidth / (mine.wall.median / tokens)
    return Speed(batch, tokens, mine, reference, twice, read, share)


@torch.no_grad()
def warm_up(base: Qwen2ForCausalLM, model: MarsModel) -> None:
    """First passes are slower."""
    model.text_logits(torch.ones(2, CAPTION, dtype=torch.int64))
    base.generate(torch.ones(2, CAPTION, dtype=torch.int64), max_new_tokens=2)


def measure_memory(size: Size) -> dict[str, int | bool]:
    """Resident bytes that a model adds, and those left once the captions are read and the language expert
    has gone. On a CPU there is nowhere to move it, so it is dropped; a picture is drawn after it to show
    that nothing misses it."""
    before = resident_memory()
    model = mars_model(base_model(size), size)
    captions, seeds = [[1, 2, 3]], [0]
    settings = SamplingSettings(top_k=TOP_K)
    expected = generate_images(model, captions, seeds, guidance=GUIDANCE, settings=settings)
    prefix = model.text_prefix(captions)
    whole = resident_memory() - before
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    move_language(model, "meta")
    left = resident_memory() - before
    kept = sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type != "meta")
    drawn = generate_images(model, captions, seeds, guidance=GUIDANCE, settings=settings, prefix=prefix)
    return {
        "resident_whole": whole,
        "resident_without_language": left,
        "weights_whole": weights,
        "weights_without_language": kept,
        "same_picture": bool(torch.equal(expected, drawn)),
    }


HEAD = (
    "| batch | tokens | our tokens/s | against generate: wall (processor) | doubled | of the bound |\n"
    "|---|---|---|---|---|---|"
)


def footer(memory: dict[str, int | bool], bandwidth: float) -> str:
    mebi = {name: value / 2**20 for name, value in memory.items()}
    lines = [
        "",
        f"copy bandwidth {bandwidth / 1e9:.1f} GB/s; {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}, transformers {transformers.__version__}",
        f"resident with both experts {mebi['resident_whole']:.0f} MiB (weights {mebi['weights_whole']:.0f}), "
        f"without the language expert {mebi['resident_without_language']:.0f} MiB "
        f"(weights {mebi['weights_without_language']:.0f}); same picture: {memory['same_picture']}",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(__doc__, argv)
    size, rounds = (QUICK, 1) if arguments.quick else (FULL, 3)
    memory = measure_memory(size)  # first, in a process that holds nothing yet
    bandwidth = copy_bandwidth(COPY_BYTES // 64 if arguments.quick else COPY_BYTES)
    base = base_model(size)
    model = mars_model(base, size)
    warm_up(base, model)
    print(HEAD, flush=True)
    speeds = []
    for batch in size.batches:
        for level in range(len(size.sides)):
            speeds.append(measure_speed(base, model, level, batch, bandwidth, rounds))
            print(speeds[-1].row, flush=True)
    print(footer(memory, bandwidth))
    result = {
        "size": asdict(size),
        "speeds": [asdict(speed) for speed in speeds],
        "memory_bytes": memory,
        "copy_bytes_per_second": bandwidth,
        "transformers": transformers.__version__,
    }
    write_result(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

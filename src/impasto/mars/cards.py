"""A MARS model in a sentence, and the README that lies in its folder."""

from torch import nn

from impasto import __version__
from impasto.mars.directories import MarsParts, MarsPipelineConfig
from impasto.mars.semvie import is_visual


def summary(parts: MarsParts, config: MarsPipelineConfig) -> str:
    """What it is and how many parameters each part has."""
    side, model = config.resolution, parts.model
    language = sum(p.numel() for name, p in model.named_parameters() if not is_visual(name))
    tokenizer = sum(p.numel() for p in parts.tokenizer.parameters())
    return (
        f"An auto-regressive model that draws from prompts and describes pictures (MARS): {side}x{side} px; "
        f"language expert {language:,} parameters, frozen; visual expert {_visual(model):,}, trained; image "
        f"tokenizer {tokenizer:,}.{_enlarging(parts, config)}"
    )


def model_card(name: str, trained: bool, parts: MarsParts, config: MarsPipelineConfig) -> str:
    """Markdown: the summary, whether it is trained, how it is used."""
    size = "" if config.enlarging is None else f", size={config.sizes[-1]}"
    lines = [
        f"# {name}",
        f"{summary(parts, config)} Written by impasto {__version__}.",
        "" if trained else "**Untrained:** these are initial weights.",
        f"    import impasto\n    pipe = impasto.load(PATH)  # {name}\n"
        f'    pipe("a prompt", num_images=4{size})\n    pipe.caption(pictures, "en")',
        "All of it is inside model.safetensors; the text tokeniser is tokenizer.json.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _enlarging(parts: MarsParts, config: MarsPipelineConfig) -> str:
    stage, model = config.enlarging, parts.enlarging
    if stage is None or model is None or stage.model.super_resolution is None:
        return ""
    side, count = config.sizes[-1], stage.model.super_resolution.tokens_per_step
    return (
        f" A second visual expert of {_visual(model):,} enlarges to {side}x{side} px, {count} codes a step."
    )


def _visual(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if is_visual(name))

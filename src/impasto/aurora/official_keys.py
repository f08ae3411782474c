"""Which tensor of ours is which key of the released state dict: one list, read in both directions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from impasto.aurora.blocks import AttentionBlock, AttentionLayer, InputBlock, ResidualBlock
from impasto.aurora.generator import Generator
from impasto.nn.fourier import ConstantInput
from impasto.nn.moe import SparseFeedForward
from impasto.nn.style import Dense, KernelBank, ModulatedConvolution, ModulatedLinear


@dataclass(frozen=True)
class Entry:
    """One official key. `ours` names our tensor (of one expert, if given), or None for the constant filter.
    `shape` is the official shape; the two differ by axes of length one."""

    official: str
    ours: str | None
    shape: tuple[int, ...]
    expert: int | None = None


def correspondence(generator: Generator) -> Iterator[Entry]:
    """Every official key of this generator with its counterpart, duplicates included."""
    names = {id(module): name for name, module in generator.named_modules()}
    walk = _Correspondence(names)
    yield Entry("w_avg", "w_avg", tuple(generator.w_avg.shape))
    yield from walk.text_head(generator)
    for index, layer in enumerate(generator.mapping.layers):
        yield from walk.dense(f"mapping.dense{index}", layer)
    if generator.config.pyramid:
        yield Entry("synthesis.filter", None, (4, 4))
    slot = 0
    for level in generator.levels:
        for unit in level.units:
            yield from walk.convolution_block(f"synthesis.net.{slot}", unit.convolution)
            if unit.attention is not None:
                yield from walk.attention_block(f"synthesis.net.{slot + 1}.0", unit.attention)
            slot += unit.slots
        side = level.resolution
        yield from walk.modulated(f"synthesis.output_res_{side}x{side}", level.to_rgb)


class _Correspondence:
    """Walks our modules and yields entries; `names` maps id(module) to its path in our generator."""

    def __init__(self, names: Mapping[int, str]):
        self.names = names

    def _entry(self, official: str, module: nn.Module, name: str, suffix: tuple[int, ...] = ()) -> Entry:
        tensor = module.get_parameter(name) if name in module._parameters else module.get_buffer(name)
        return Entry(official, f"{self.names[id(module)]}.{name}", (*tensor.shape, *suffix))

    def dense(self, official: str, module: nn.Module, suffix: tuple[int, ...] = ()) -> Iterator[Entry]:
        assert isinstance(module, Dense)
        yield self._entry(f"{official}.weight", module, "weight", suffix)
        if module.bias is not None:
            yield self._entry(f"{official}.bias", module, "bias")

    def norm(self, official: str, module: nn.Module) -> Iterator[Entry]:
        yield self._entry(f"{official}.weight", module, "weight")
        yield self._entry(f"{official}.bias", module, "bias")

    def text_head(self, generator: Generator) -> Iterator[Entry]:
        head = generator.text_head
        if head.align is not None:
            yield from self.dense("text_head.align_dim", head.align)
        for index, block in enumerate(head.blocks):
            name = f"text_head.transformer.res_blocks.{index}"
            yield from self.norm(f"{name}.ln_1", block.norm_attention)
            yield from self.norm(f"{name}.ln_2", block.norm_perceptron)
            yield from self.dense(f"{name}.attn.to_qkv", block.to_qkv)
            yield from self.dense(f"{name}.attn.to_out.0", block.to_out)
            for prefix in (name, f"{name}.mlp"):  # the released module registers these twice
                yield from self.dense(f"{prefix}.c_fc", block.expand)
                yield from self.dense(f"{prefix}.c_proj", block.contract)

    def modulated(self, official: str, module: nn.Module) -> Iterator[Entry]:
        assert isinstance(module, ModulatedConvolution | ModulatedLinear)
        bank: KernelBank = module.bank
        suffix = (1, 1) if isinstance(module, ModulatedLinear) else ()
        yield self._entry(f"{official}.weight", bank, "weight", suffix)
        yield self._entry(f"{official}.bias", module, "bias")
        yield from self.dense(f"{official}.style", module.style)
        if bank.choice is not None:
            yield from self.dense(f"{official}.filter_weight", bank.choice)
        field = getattr(module, "deformation", None)
        if field is not None:
            yield self._entry(f"{official}.mtm_weight", field, "weight")
            for theirs, ours in (("mtm_bias", "bias"), ("mtm_scales", "scale")):
                yield Entry(f"{official}.{theirs}", f"{self.names[id(field)]}.{ours}", (1, 27, 1, 1))
            yield from self.dense(f"{official}.mtm_style", field.style)
        if getattr(module, "upsample", False):
            yield Entry(f"{official}.filter", None, (4, 4))

    def convolution_block(self, official: str, block: InputBlock | ResidualBlock) -> Iterator[Entry]:
        if isinstance(block, InputBlock):
            source = block.input
            if isinstance(source, ConstantInput):
                yield self._entry(f"{official}.0.const", source, "constant")
            else:
                for theirs, ours in (("freqs", "frequencies"), ("phases", "phases")):
                    yield self._entry(f"{official}.0.{theirs}", source, ours)
                yield self._entry(f"{official}.0.transform", source, "transform")
                yield self._entry(f"{official}.0.weight", source, "weight")
                yield from self.dense(f"{official}.0.affine", source.affine)
            yield from self.modulated(f"{official}.1", block.convolution)
            return
        yield from self.modulated(f"{official}.0.conv1", block.first)
        yield from self.modulated(f"{official}.0.conv2", block.second)
        if block.skip is not None:
            yield from self.dense(f"{official}.0.skip_connection", block.skip, (1, 1))
            if block.upsample:
                yield Entry(f"{official}.0.skip_connection.filter", None, (4, 4))

    def attention_block(self, official: str, block: AttentionBlock) -> Iterator[Entry]:
        yield from self.norm(f"{official}.norm", block.norm)
        yield from self.dense(f"{official}.proj_in", block.project_in, (1, 1))
        yield from self.dense(f"{official}.proj_out", block.project_out, (1, 1))
        for index, layer in enumerate(block.layers):
            yield from self.attention_layer(f"{official}.attn_blocks.{index}", layer)

    def attention_layer(self, official: str, layer: AttentionLayer) -> Iterator[Entry]:
        own = layer.self_attention
        yield from self.norm(f"{official}.norm1", layer.norm_self)
        for name in ("to_qk", "to_v", "to_qkv"):
            if hasattr(own, name):
                yield from self.dense(f"{official}.self_attn.{name}", getattr(own, name))
        yield from self.modulated(f"{official}.self_attn.proj_out", own.to_out)
        cross = layer.cross_attention
        if cross is not None:
            yield from self.norm(f"{official}.norm2", layer.norm_cross)
            yield from self.dense(f"{official}.cross_attn.to_q", cross.to_q)
            yield from self.dense(f"{official}.cross_attn.to_kv", cross.to_kv)
            yield from self.dense(f"{official}.cross_attn.proj_out.0", cross.to_out)
        if layer.style_token is not None:
            yield from self.dense(f"{official}.align_dim", layer.style_token)
        feed_forward = layer.feed_forward
        if feed_forward is None:
            return
        yield from self.norm(f"{official}.norm3", layer.norm_feed_forward)
        inner = "proj" if layer_kind(feed_forward) == "geglu" else "0"
        if isinstance(feed_forward, SparseFeedForward):
            yield from self.experts(f"{official}.ff.net", inner, feed_forward)
            yield from self.modulated(f"{official}.ff.routing", feed_forward.router.logits)
        else:
            for project_in, project_out in (("project_in", "proj_out"), ("net.0", "net.2")):
                yield from self.dense(f"{official}.ff.{project_in}.{inner}", feed_forward.project_in)
                yield from self.dense(f"{official}.ff.{project_out}", feed_forward.project_out)

    def experts(self, official: str, inner: str, layer: SparseFeedForward) -> Iterator[Entry]:
        name = self.names[id(layer.experts)]
        pairs = (
            (f"0.{inner}.weight", "weight_in"),
            (f"0.{inner}.bias", "bias_in"),
            ("2.weight", "weight_out"),
            ("2.bias", "bias_out"),
        )
        for expert in range(layer.experts.count):
            for theirs, ours in pairs:
                shape = tuple(layer.experts.get_parameter(ours).shape[1:])
                yield Entry(f"{official}.{expert}.{theirs}", f"{name}.{ours}", shape, expert)


def layer_kind(feed_forward: nn.Module) -> str:
    """Of a dense or sparse feed-forward layer: "geglu" or "gelu"."""
    owner = feed_forward.experts if isinstance(feed_forward, SparseFeedForward) else feed_forward
    return str(owner.kind)

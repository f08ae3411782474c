"""Foreign tokenizers: outputs equal to the libraries' own modules, or to a transcription of the published
forward pass, on random weights; strict about names and shapes; careful with files."""

import json
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from impasto.cli import main
from impasto.convert_command import LAYOUTS
from impasto.mars.directories import load_tokenizer
from impasto.mars.vq import VQConfig, VQTokenizer
from impasto.mars.vq_adapters import (
    ForeignTokenizerError,
    Layout,
    detect_layout,
    from_foreign,
    load_foreign,
    read_weights,
    to_foreign,
)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that make every layer matter; libraries start biases at zero and norms at one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.3 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            centre = 1.0 if parameter.dim() < 2 else 0.0
            parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def pictures(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def spread(table: torch.Tensor, latents: torch.Tensor) -> None:
    """Put codes where the latents [B, D, h, w] are, so that the search has something to tell apart."""
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2)[: len(table)]
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(6))
    table[: len(rows)] = rows + 0.1 * rows.std() * noise


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# transformers


@pytest.fixture(scope="module")
def janus():
    from transformers.models.janus.configuration_janus import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    config = JanusVQVAEConfig(
        base_channels=32, channel_multiplier=[1, 1, 2], num_res_blocks=2, num_patches=4,
        embed_dim=8, num_embeddings=64, latent_channels=16,
    )  # fmt: skip
    model = randomised(JanusVQVAE(config))
    with torch.no_grad():
        spread(model.quantize.embedding.weight, model.quant_conv(model.encoder(pictures(16))))
    return model


@torch.no_grad()
def test_janus_equals_transformers(janus):
    assert detect_layout(janus.state_dict()) == "janus"
    model = from_foreign(janus.state_dict())
    assert model.config == VQConfig(
        channels=(32, 32, 64), attention_levels=(2,), latent_channels=16, codes=64, normalize="decode"
    )
    images = pictures(16)
    encoded = janus.encode(images, return_dict=True)
    same(model.encoder(images), encoded.last_hidden_state)
    ids = model.encode(images)
    assert torch.equal(ids.flatten(), encoded.image_tokens) and ids.unique().numel() > 8
    same(model.decode(ids), janus.decode(ids.flatten(1)))
    same(model(images).reconstruction, janus(images).decoded_pixel_values)
    whole = {f"model.vqmodel.{name}": tensor for name, tensor in janus.state_dict().items()}
    other = {**whole, "model.language_model.embed_tokens.weight": torch.zeros(3, 3)}
    assert torch.equal(from_foreign(other).encode(images), ids)


@torch.no_grad()
def test_llamagen_names_and_its_unit_length_search(janus):
    """Its networks are those of Janus under other names; its search is over unit vectors (vq_model.py)."""
    names = {
        ".down.": ".conv_blocks.", ".up.": ".conv_blocks.", ".block.": ".res.",
        ".mid.block_1.": ".mid.0.", ".mid.attn_1.": ".mid.1.", ".mid.block_2.": ".mid.2.",
    }  # fmt: skip
    state = {}
    for name, tensor in janus.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    state["quantize.codebook_used"] = torch.zeros(65536)
    assert "decoder.conv_blocks.0.upsample.conv.weight" in state
    assert "encoder.conv_blocks.2.attn.1.proj_out.bias" in state
    model = from_foreign(state)
    assert detect_layout(state) == "llamagen" and model.config.normalize == "both"
    images = pictures(16)
    z = F.normalize(janus.quant_conv(janus.encoder(images)).permute(0, 2, 3, 1), dim=-1)
    table = F.normalize(janus.quantize.embedding.weight, dim=-1)
    ids = (z[..., None, :] - table).square().sum(-1).argmin(-1)
    assert torch.equal(model.encode(images), ids)
    same(model.decode(ids), janus.decode(ids.flatten(1)))
    inside = {f"gen_vision_model.{name}": tensor for name, tensor in state.items()}
    assert torch.equal(from_foreign(inside).encode(images), ids)


# diffusers


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip(
        "diffusers", reason="diffusers is not installed; it is the reference here", exc_type=ImportError
    )


AMUSED = {  # scripts/convert_amused.py, with the widths divided by four
    "block_out_channels": (32, 64, 64, 128, 192),
    "layers_per_block": 2,
    "latent_channels": 16,
    "num_vq_embeddings": 64,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}
WITH_ATTENTION = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "latent_channels": 8,
    "vq_embed_dim": 6,
    "num_vq_embeddings": 32,
    "norm_num_groups": 8,
}


@pytest.mark.parametrize(("options", "attention"), [(AMUSED, False), (WITH_ATTENTION, True)])
@torch.no_grad()
def test_diffusers_equals_its_vq_model(diffusers, options, attention, tmp_path):
    levels = len(options["block_out_channels"])
    down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
    if attention:
        down[-1], up[0] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    reference = randomised(diffusers.VQModel(down_block_types=down, up_block_types=up, **options))
    images = pictures(16 if attention else 32)
    spread(reference.quantize.embedding.weight, reference.encode(images).latents)
    reference.save_pretrained(tmp_path)
    model = load_foreign(tmp_path)
    assert model.config.channels == options["block_out_channels"]
    assert model.config.attention_levels == ((levels - 1,) if attention else ())
    latents = reference.encode(images).latents
    same(model.latents(images), latents)
    ids = model.encode(images)
    assert torch.equal(ids.flatten(), reference.quantize(latents)[2][2]) and ids.unique().numel() > 3
    same(model(images).reconstruction, reference(images).sample)
    if options.get("lookup_from_codebook"):
        shape = (*ids.shape, model.config.code_dim)
        same(model.decode(ids), reference.decode(ids, force_not_quantize=True, shape=shape).sample)
    exported = to_foreign(model, "diffusers")
    assert exported.keys() == reference.state_dict().keys()
    assert all(torch.equal(tensor, reference.state_dict()[name]) for name, tensor in exported.items())


def test_diffusers_names_without_the_library():
    """A few of the names that `VQModel.state_dict()` has, and those of attention in its early releases."""
    model = small(attention_levels=(1,))
    state = to_foreign(model, "diffusers")
    assert detect_layout(state) == "diffusers"
    assert {
        "encoder.down_blocks.0.downsamplers.0.conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.bias",
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.conv_norm_out.weight",
        "decoder.up_blocks.0.attentions.1.to_out.0.bias", "decoder.mid_block.resnets.1.norm2.weight",
        "encoder.mid_block.attentions.0.group_norm.weight", "encoder.down_blocks.1.attentions.0.to_q.weight",
        "quantize.embedding.weight", "quant_conv.weight", "post_quant_conv.bias",
    } <= state.keys()  # fmt: skip
    assert state["encoder.mid_block.attentions.0.to_v.weight"].shape == (16, 16)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, before in old.items():
        state = {name.replace(f".{new}.", f".{before}."): tensor for name, tensor in state.items()}
    again = from_foreign(state, norm_groups=4)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


# taming


def taming_names(
    levels: int, blocks: int, attention: tuple[int, ...], shortcuts: dict[str, set[int]]
) -> set[str]:
    """The keys of a `VQModel` of CompVis/taming-transformers, from its modules."""
    layers = {"quant_conv", "post_quant_conv"}
    for half, stack, count in (("encoder", "down", blocks), ("decoder", "up", blocks + 1)):
        layers |= {f"{half}.conv_in", f"{half}.norm_out", f"{half}.conv_out"}
        units = [f"{half}.mid.block_1", f"{half}.mid.block_2"]
        attentions = [f"{half}.mid.attn_1"]
        for level in range(levels):
            units += [f"{half}.{stack}.{level}.block.{n}" for n in range(count)]
            if level in attention:
                attentions += [f"{half}.{stack}.{level}.attn.{n}" for n in range(count)]
            if level in shortcuts[half]:
                layers.add(f"{half}.{stack}.{level}.block.0.nin_shortcut")
        layers |= {f"{unit}.{part}" for unit in units for part in ("norm1", "conv1", "norm2", "conv2")}
        layers |= {f"{unit}.{part}" for unit in attentions for part in ("norm", "q", "k", "v", "proj_out")}
    layers |= {f"encoder.down.{level}.downsample.conv" for level in range(levels - 1)}
    layers |= {f"decoder.up.{level}.upsample.conv" for level in range(1, levels)}
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")} | {
        "quantize.embedding.weight"
    }


class Taming:
    """The published forward pass (taming/modules/diffusionmodules/model.py), over a plain state dict."""

    def __init__(self, state: dict[str, torch.Tensor], levels: int, blocks: int, groups: int):
        self.state, self.levels, self.blocks, self.groups = state, levels, blocks, groups

    def conv(self, name, x, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def norm(self, name, x):
        return F.group_norm(x, self.groups, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def swish(self, x):
        return x * torch.sigmoid(x)

    def block(self, name, x):
        h = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", h)), padding=1)
        return (
            self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x
        ) + h

    def attention(self, name, x):
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * q.shape[1] ** -0.5, dim=2)
        return x + self.conv(f"{name}.proj_out", torch.bmm(v, weights.transpose(1, 2)).view_as(x))

    def middle(self, half, x):
        x = self.attention(f"{half}.mid.attn_1", self.block(f"{half}.mid.block_1", x))
        return self.block(f"{half}.mid.block_2", x)

    def level(self, name, x, blocks):
        for n in range(blocks):
            x = self.block(f"{name}.block.{n}", x)
            if f"{name}.attn.{n}.q.weight" in self.state:
                x = self.attention(f"{name}.attn.{n}", x)
        return x

    def latents(self, x):
        x = self.conv("encoder.conv_in", x, padding=1)
        for level in range(self.levels):
            x = self.level(f"encoder.down.{level}", x, self.blocks)
            if level != self.levels - 1:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        x = self.swish(self.norm("encoder.norm_out", self.middle("encoder", x)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x, padding=1))

    def forward(self, images):
        z, table = self.latents(images).permute(0, 2, 3, 1), self.state["quantize.embedding.weight"]
        ids = (z[..., None, :] - table).square().sum(-1).argmin(-1)
        x = self.conv("post_quant_conv", table[ids].permute(0, 3, 1, 2))
        x = self.middle("decoder", self.conv("decoder.conv_in", x, padding=1))
        for level in reversed(range(self.levels)):
            x = self.level(f"decoder.up.{level}", x, self.blocks + 1)
            if level != 0:
                wider = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(f"decoder.up.{level}.upsample.conv", wider, padding=1)
        return ids, self.conv("decoder.conv_out", self.swish(self.norm("decoder.norm_out", x)), padding=1)


def small(**changes) -> VQTokenizer:
    options = {"channels": (8, 16), "blocks": 1, "attention_levels": (1,), "norm_groups": 4, "codes": 16}
    options |= {"latent_channels": 8, "code_dim": 6, "normalize": "none"}
    return randomised(VQTokenizer(VQConfig(**{**options, **changes})))


@torch.no_grad()
def test_taming_equals_a_transcription_and_goes_both_ways(tmp_path):
    """f16 with 1,024 codes of ImageNet, divided by sixteen: ch_mult (1, 1, 2, 2, 4), two blocks a level."""
    model = small(channels=(8, 8, 16, 16, 32), blocks=2, attention_levels=(4,), codes=64)
    images = pictures(32)
    spread(model.quantizer.embedding.weight, model.latents(images))
    state = to_foreign(model, "taming")
    shortcuts = {"encoder": {2, 4}, "decoder": {1, 3}}
    assert state.keys() == taming_names(5, 2, (4,), shortcuts)
    assert state["decoder.up.0.block.0.conv1.weight"].shape == (8, 8, 3, 3)
    assert state["decoder.up.4.block.0.conv1.weight"].shape == (32, 32, 3, 3)
    ids, reconstruction = Taming(state, 5, 2, 4).forward(images)
    lightning = {  # what a .ckpt of the trainer holds
        "epoch": 3,
        "state_dict": {
            **state,
            "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(2),
            "loss.discriminator.main.3.num_batches_tracked": torch.tensor(7),
        },
    }
    torch.save(lightning, tmp_path / "last.ckpt")
    again = from_foreign(read_weights(tmp_path / "last.ckpt"), norm_groups=4)
    assert again.config == model.config
    assert torch.equal(again.encode(images), ids) and ids.unique().numel() > 2
    same(again(images).reconstruction, reconstruction)
    exported = to_foreign(again, "taming")
    assert exported.keys() == state.keys() and all(torch.equal(exported[k], state[k]) for k in state)


@pytest.mark.parametrize("layout", ["taming", "diffusers", "llamagen", "janus"])
def test_every_layout_goes_both_ways(layout):
    normalize = {"llamagen": "both", "janus": "decode"}.get(layout, "none")
    model = small(channels=(8, 16, 16), normalize=normalize, middle_attention=layout != "taming")
    state = to_foreign(model, layout)
    assert detect_layout(state) == layout
    again = from_foreign(state, norm_groups=4)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    other = "taming" if layout in ("llamagen", "janus") else "janus"
    with pytest.raises(ForeignTokenizerError, match="normalize"):
        to_foreign(model, other)


# What is refused


def test_wrong_tensors_are_refused_by_name():
    state = to_foreign(small(), "taming")
    for change, message in (
        (
            {"encoder.mid.blok_1.conv1.weight": torch.zeros(1)},
            "did you mean 'encoder.mid.block_1.conv1.weight'",
        ),
        ({"quant_conv.bias": torch.zeros(7)}, r"'quant_conv.bias' has shape \(7,\) instead of \(6,\)"),
        ({"quant_conv.bias": None}, "'quant_conv.bias' of taming is missing"),
        ({"encoder.conv_in.weight": None}, "'encoder.conv_in.weight' of taming is missing"),
        ({"encoder.down.0.block.0.conv1.weight": None}, "is missing"),
    ):
        wrong = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        with pytest.raises(ForeignTokenizerError, match=message):
            from_foreign(wrong, norm_groups=4)
    with pytest.raises(ForeignTokenizerError, match="norm_groups=32"):
        from_foreign(state)
    with pytest.raises(ForeignTokenizerError, match="no tokenizer of a known layout"):
        from_foreign({"weight": torch.zeros(1)})


class Harmful:
    def __reduce__(self):
        return print, ("this file ran code",)


def test_files_are_never_run_as_code(tmp_path, capsys):
    torch.save({"state_dict": Harmful()}, tmp_path / "bad.ckpt")
    with pytest.raises(ForeignTokenizerError, match="weights_only=True"):
        load_foreign(tmp_path / "bad.ckpt")
    assert "ran code" not in capsys.readouterr().out
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    with pytest.raises(ForeignTokenizerError, match="not a safetensors file"):
        load_foreign(tmp_path / "cut.safetensors")
    with pytest.raises(ForeignTokenizerError, match="no such file"):
        load_foreign(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ForeignTokenizerError, match="no state dict"):
        load_foreign(tmp_path / "list.pth")


def test_directories_heed_their_config(tmp_path):
    model = small()
    save_file(to_foreign(model, "diffusers"), tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ForeignTokenizerError, match=r"no config\.json"):
        load_foreign(tmp_path)
    for options, message in (({"norm_type": "spatial"}, "norm_type='spatial' is not supported"), ({}, "=32")):
        (tmp_path / "config.json").write_text(json.dumps(options))
        with pytest.raises(ForeignTokenizerError, match=message):
            load_foreign(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"norm_num_groups": 4, "act_fn": "silu"}))
    images = pictures(8)
    assert torch.equal(load_foreign(tmp_path).encode(images), model.encode(images))


def test_the_command_makes_what_training_takes(tmp_path, capsys):
    assert get_args(Layout) == LAYOUTS  # the command names them without importing torch
    model = small(channels=(32, 32), norm_groups=32)  # as all published ones
    save_file(to_foreign(model, "taming"), tmp_path / "vq.safetensors")
    made = tmp_path / "made"
    assert main(["convert", str(tmp_path / "vq.safetensors"), str(made), "--tokenizer", "auto"]) == 0
    assert f"wrote {made}" in capsys.readouterr().out
    part = load_tokenizer(made)
    assert part.tokenizer.config == model.config and part.provenance == {"converted_from": "vq.safetensors"}
    images = pictures(8)
    assert torch.equal(part.tokenizer.encode(images), model.encode(images))
    assert torch.equal(part.tokenizer(images).reconstruction, model(images).reconstruction)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    for target, layout, message in (
        (tmp_path / "mine", "auto", "is not a model directory"),
        (tmp_path / "other", "llamagen", "tensor '"),
    ):
        source = tmp_path / "vq.safetensors"
        assert main(["convert", str(source), str(target), "--tokenizer", layout]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert message in error
    assert (tmp_path / "mine/thesis.tex").read_text() == "precious" and not (tmp_path / "other").exists()

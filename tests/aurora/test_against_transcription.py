"""Our generator against an independent transcription of the published algorithm, over the options of the
released constructor that the recorded fixtures do not exercise."""

import json

import pytest
import torch
from benchmarks.transcription import published_generator, random_state_dict
from safetensors.torch import load_file

from impasto.aurora.official import from_official, to_official
from tests.conftest import FIXTURES, relative_difference

SMALL = json.loads((FIXTURES / "aurora" / "public_small.config.json").read_text())["constructor"]
LEVELS = ["4", "8", "16"]
BASE = {
    **SMALL,
    "resolution": 16,
    "num_adaptive_kernels": {"4": 1, "8": 2, "16": 3},
    "num_block_per_res": {"4": 2, "8": 2, "16": 1},
    "attn_resolutions": ["8", "16"],
    "attn_depth": {"8": 2, "16": 1},
    "num_experts": {"8": 3, "16": 4},
    "ms_training_res": LEVELS,
}
VARIANTS = {
    "base": {},
    "first levels only": {"ms_training_res": ["4", "8"]},
    "first level only": {"ms_training_res": ["4"]},
    "no pyramid": {"skip_connection": False},
    "no pyramid, last image": {"skip_connection": False, "ms_training_res": ["16"]},
    "no pyramid, a gap": {"skip_connection": False, "ms_training_res": ["4", "16"]},
    "dense": {"num_experts": {"8": 1, "16": -1}},
    "dense at one level": {"num_experts": {"8": 1, "16": 4}},
    "constant input": {"fourier_feat": False},
    "dot product": {"l2_attention": False},
    "dot product, scaled inputs": {"l2_attention": False, "scale_in": True},
    "dot product, tie has no effect": {"l2_attention": False, "tie": True},
    "tied": {"tie": True},
    "tied, scaled inputs": {"tie": True, "scale_in": True},
    "scaled inputs": {"scale_in": True},
    "no deformation": {"mtm": False},
    "w per slot": {"repeat_w": False},
    "style token": {"use_w_cond": True},
    "plain experts": {"glu": True},
    "plain dense": {"glu": True, "num_experts": {"8": 1, "16": 1}},
    "no feed-forward": {"include_ff": False},
    "tanh": {"final_tanh": True},
    "clamp": {"conv_clamp": 0.5},
    "heads as wide as the channels": {"head_dim": None},
    "no equalised rates": {"use_wscale": False, "mapping_use_wscale": False, "text_use_wscale": False},
    "no demodulation": {"demodulate": False},
    "attention at the first level": {
        "attn_resolutions": ["4", "8"], "attn_depth": {"4": 1, "8": 1}, "num_experts": {"4": 2, "8": 3},
    },
    "attention by the table": {"attn_resolutions": None},
    "numbers are no resolutions": {"attn_resolutions": [8, 16]},
    "starts at 8": {
        "init_res": 8, "num_adaptive_kernels": {"8": 2, "16": 3}, "num_block_per_res": {"8": 1, "16": 1},
        "ms_training_res": ["8", "16"],
    },
    "no alignment of widths": {"clip_out_dim": 64},
    "one text layer, other gains": {"num_layers_text_enc": 1, "text_head_gain": 0.7, "attn_gain": 0.5},
    "other rates": {"mapping_lr_mul": 0.1, "text_lr_mul": 1.0},
    "grey": {"image_channels": 1},
}  # fmt: skip


def compare(constructor, state, truncation=None, **options):
    torch.manual_seed(5)
    z = torch.randn(3, constructor["z_dim"])
    context = torch.randn(3, 77, constructor["clip_out_dim"])
    eot = torch.tensor([3, 20, 76])
    generator = from_official(state, constructor)
    theirs = published_generator(state, constructor, z, context, eot, **options)
    psi, layers = truncation or (1.0, 0)
    with torch.no_grad():
        ours = generator(z, context, eot, truncation_psi=psi, truncation_layers=layers)
    assert relative_difference(ours.image, theirs["image"]) < 3e-5
    for resolution in ours.pyramid:
        expected = theirs[f"img_res_{resolution}x{resolution}"]
        assert relative_difference(ours.pyramid[resolution], expected) < 3e-5
    assert {k for k in theirs if k.startswith("img_res")} == {f"img_res_{r}x{r}" for r in ours.pyramid}
    for name, tensor in {"w": ours.w, "wp": ours.wp, "text_head.global": ours.global_text}.items():
        assert tensor.shape == theirs[name].shape
        assert relative_difference(tensor, theirs[name]) < 1e-4, name
    assert len(ours.routing) == len(theirs["router"])
    for layer, expected in zip(ours.routing, theirs["router"], strict=True):
        assert torch.equal(layer.expert_index.flatten(1), expected["expert_index"])
        assert relative_difference(layer.probability.flatten(1), expected["top_prob"]) < 1e-4
    if ours.routing:
        assert relative_difference(ours.moe_loss, torch.as_tensor(theirs["moe_loss"])) < 1e-4
    back = to_official(generator)
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)


@pytest.mark.parametrize("name", VARIANTS)
def test_options_of_the_released_constructor(name):
    constructor = {**BASE, **VARIANTS[name]}
    compare(constructor, random_state_dict(constructor, seed=11))


@pytest.mark.parametrize("per_slot", [False, True])
@pytest.mark.parametrize("layers", [0, 2, 100])
def test_truncation(layers, per_slot):
    constructor = {**BASE, "repeat_w": not per_slot}
    state = random_state_dict(constructor, seed=12)
    state["w_avg"] = torch.randn_like(state["w_avg"])
    compare(constructor, state, truncation=(0.3, layers), trunc_psi=0.3, trunc_layers=layers)


def test_a_transform_of_the_picture_plane():
    state = random_state_dict(BASE, seed=13)
    state["synthesis.net.0.0.transform"] = torch.tensor([[0.8, -0.6, 0.2], [0.6, 0.8, -0.1], [0.0, 0.0, 1.0]])
    compare(BASE, state)


def test_the_transcription_passes_the_recorded_fixtures():
    io = load_file(FIXTURES / "aurora" / "public_small.io.safetensors")
    state = load_file(FIXTURES / "aurora" / "public_small.weights.safetensors")
    result = published_generator(state, SMALL, io["in.z"], io["in.context"], io["in.eot_ind"])
    for i in range(3):
        assert relative_difference(result["image"][i : i + 1], io[f"single{i}.image"]) < 3e-5
    mixed = published_generator(state, SMALL, io["in.z"], io["in.context"], io["in.eot_ind"], mix_text=True)
    assert relative_difference(mixed["image"], io["out.image"]) < 3e-5

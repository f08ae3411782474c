"""The published generator's reference tensors, and checkpoints in both directions."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from impasto.aurora.generator import Generator
from impasto.aurora.official import (
    RELEASED_CONSTRUCTOR,
    config_from_constructor,
    from_official,
    read_official,
    to_official,
    write_official,
)
from impasto.aurora.presets import PRESETS
from impasto.config import ConfigError, diff
from tests.conftest import FIXTURES, relative_difference

FOLDER = FIXTURES / "aurora"
IMAGE_TOLERANCE, TOLERANCE = 3e-5, 1e-4  # the fixtures' README


@pytest.fixture(scope="module")
def constructor():
    return json.loads((FOLDER / "public_small.config.json").read_text())["constructor"]


@pytest.fixture(scope="module")
def weights():
    return load_file(FOLDER / "public_small.weights.safetensors")


@pytest.fixture(scope="module")
def io():
    return load_file(FOLDER / "public_small.io.safetensors")


@pytest.fixture(scope="module")
def generator(constructor, weights):
    return from_official(weights, constructor)


@pytest.fixture(scope="module")
def batch(generator, io):
    with torch.no_grad():
        return generator(io["in.z"], io["in.context"], io["in.eot_ind"])


def router_names(io, prefix):
    return sorted(key for key in io if key.startswith(f"{prefix}router.") and key.endswith(".expert_index"))


def check_single(io, i, output, row):
    """Every `single{i}.*` tensor against one row of an output."""
    prefix = f"single{i}."
    checked = {f"{prefix}moe_loss"}
    pairs = {"w": output.w, "wp": output.wp, "image": output.image}
    pairs |= {"text_head.global": output.global_text, "text_head.local": output.local_text}
    pairs |= {f"img_res_{r}x{r}": image for r, image in output.pyramid.items()}
    for name, tensor in pairs.items():
        if prefix + name not in io:
            continue
        tolerance = IMAGE_TOLERANCE if name.startswith("im") else TOLERANCE
        assert relative_difference(tensor[row : row + 1], io[prefix + name]) < tolerance, name
        checked.add(prefix + name)
    names = router_names(io, prefix)
    assert len(names) == len(output.routing)
    for name, layer in zip(names, output.routing, strict=True):
        assert torch.equal(layer.expert_index[row].flatten(), io[name][0]), name
        probability = name.replace("expert_index", "top_prob")
        assert relative_difference(layer.probability[row].flatten(), io[probability][0]) < TOLERANCE
        checked |= {name, probability}
    assert checked == {key for key in io if key.startswith(prefix)}


@pytest.mark.parametrize("i", [0, 1, 2])
def test_every_single_tensor_alone(generator, io, i):
    with torch.no_grad():
        one = generator(io["in.z"][i : i + 1], io["in.context"][i : i + 1], io["in.eot_ind"][i : i + 1])
    check_single(io, i, one, 0)
    assert relative_difference(one.moe_loss, io[f"single{i}.moe_loss"]) < TOLERANCE


@pytest.mark.parametrize("i", [0, 1, 2])
def test_every_single_tensor_in_a_batch(batch, io, i):
    check_single(io, i, batch, i)


def test_moe_loss_of_a_batch_is_the_mean_over_samples(batch, io):
    expected = torch.stack([io[f"single{i}.moe_loss"] for i in range(3)]).mean()
    assert relative_difference(batch.moe_loss, expected) < TOLERANCE


@pytest.mark.parametrize("prefix", ["out", "distinct"])
def test_synthesis_from_given_styles(generator, io, prefix):
    """`out` feeds the batch's own styles and text, `distinct` another w in every slot."""
    wp = io["out.wp"] if prefix == "out" else io["in.wp_distinct"]
    with torch.no_grad():
        image, pyramid, routing, moe_loss = generator.synthesize(wp, io["out.text_head.local"])
    assert relative_difference(image, io[f"{prefix}.image"]) < IMAGE_TOLERANCE
    for resolution, level in pyramid.items():
        name = f"{prefix}.img_res_{resolution}x{resolution}"
        assert relative_difference(level, io[name]) < IMAGE_TOLERANCE
    assert relative_difference(moe_loss, io[f"{prefix}.moe_loss"]) < TOLERANCE
    names = router_names(io, "batch." if prefix == "out" else "distinct.")
    for name, layer in zip(names, routing, strict=True):
        assert torch.equal(layer.expert_index.flatten(1), io[name])


def test_intermediate_tensors(generator, io):
    """Activations, kernel mixtures, deformation fields, router logits of the recorded batch."""
    ours, handles = {}, []

    def record(name, module, pick=lambda inputs, output: output):
        hook = module.register_forward_hook(
            lambda _, inputs, output: ours.update({name: pick(inputs, output)})
        )
        handles.append(hook)

    slot = 0
    for level in generator.levels:
        side = level.resolution
        record(f"act.synthesis.output_res_{side}x{side}", level.to_rgb, lambda _, output: as_map(output))
        record_choice(record, f"synthesis.output_res_{side}x{side}", level.to_rgb)
        for unit in level.units:
            record(f"act.synthesis.net.{slot}", unit.convolution)
            record_convolutions(record, f"synthesis.net.{slot}", unit.convolution)
            if unit.attention is not None:
                record(f"act.synthesis.net.{slot + 1}", unit.attention, lambda _, output: output[0])
                for depth, layer in enumerate(unit.attention.layers):
                    name = f"synthesis.net.{slot + 1}.0.attn_blocks.{depth}"
                    record(f"act.{name}", layer, lambda _, output: as_map(output[0]))
                    record(f"act.{name}.self_attn", layer.self_attention, lambda _, output: as_map(output))
                    record(f"act.{name}.cross_attn", layer.cross_attention)
                    record(f"act.{name}.ff", layer.feed_forward, lambda _, output: output[0])
                    record(f"router.{name}.ff.logits", layer.feed_forward.router)
            slot += unit.slots
    with torch.no_grad():
        generator.synthesize(io["out.wp"], io["out.text_head.local"])
    for handle in handles:
        handle.remove()
    compared = 0
    for name, tensor in ours.items():
        if f"batch.{name}" in io:
            assert relative_difference(tensor, io[f"batch.{name}"]) < TOLERANCE, name
            compared += 1
    assert compared >= 30


def as_map(tokens):
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def record_choice(record, key, convolution):
    if convolution.bank.choice is not None:
        record(f"kernel_select.{key}", convolution.bank.choice, lambda _, output: output.softmax(-1))


def record_convolutions(record, name, block):
    parts = {"0.1": "convolution", "0.conv1": "first", "0.conv2": "second"}
    for official, ours in parts.items():
        convolution = getattr(block, ours, None)
        if convolution is None:
            continue
        key = f"{name}.1" if official == "0.1" else f"{name}.{official}"
        record_choice(record, key, convolution)
        if convolution.deformation is not None:
            record(f"mtm.{key}.offset", convolution.deformation, lambda _, output: output[0])
            record(f"mtm.{key}.mask", convolution.deformation, lambda _, output: output[1])


def test_samples_do_not_leak_into_each_other(generator, io):
    """The published text head mixes the batch; ours gives each prompt its own features."""
    with torch.no_grad():
        a = generator(io["in.z"], io["in.context"], io["in.eot_ind"])
        changed = io["in.context"].clone()
        changed[1:] = torch.randn_like(changed[1:])
        b = generator(io["in.z"], changed, io["in.eot_ind"])
    assert relative_difference(b.image[:1], a.image[:1]) < 1e-5
    assert relative_difference(b.local_text[:1], a.local_text[:1]) < 1e-6
    assert relative_difference(a.local_text, io["out.text_head.local"]) > 0.1


def test_release_form_ignores_the_mask(generator, io):
    mask = torch.arange(77) <= io["in.eot_ind"][:, None]
    with torch.no_grad():
        a = generator(io["in.z"], io["in.context"], io["in.eot_ind"])
        b = generator(io["in.z"], io["in.context"], io["in.eot_ind"], text_mask=mask)
    assert torch.equal(a.image, b.image)


def test_there_and_back_is_the_same_state_dict(generator, weights):
    back = to_official(generator)
    assert sorted(back) == sorted(weights)
    for key, tensor in weights.items():
        assert torch.equal(back[key], tensor), key


def test_released_configuration_has_the_published_keys_and_size():
    with torch.device("meta"):
        generator = Generator(PRESETS["aurora-64-release"].build().generator)
    assert sum(p.numel() for p in generator.parameters()) == 1_166_329_387
    published = json.loads((FOLDER / "full_state_dict_shapes.json").read_text())
    ours = to_official(generator)
    assert {k: list(v.shape) for k, v in ours.items()} == {e["key"]: e["shape"] for e in published}
    report = json.loads((FOLDER / "full_model_report.json").read_text())
    assert sum(t.numel() for t in ours.values()) == report["state_dict_numel_with_aliases"]


def test_release_preset_is_the_released_constructor():
    report = json.loads((FOLDER / "full_model_report.json").read_text())
    for constructor in (report["config"], RELEASED_CONSTRUCTOR):
        config = config_from_constructor(constructor)
        preset = PRESETS["aurora-64-release"].build().generator
        # The tables may list levels that have no attention; only what they say of the others counts.
        assert [line for line in diff(preset, config) if not line.startswith("trained")] == []
        assert config.active_resolutions == preset.active_resolutions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mapping.dense1.weight"), "key 'mapping.dense1.weight' is missing"),
        (
            lambda s: s.update({"mapping.dense9.weight": torch.zeros(1)}),
            "unexpected key 'mapping.dense9.weight'",
        ),
        (lambda s: s.update({"w_avg": torch.zeros(3)}), r"key 'w_avg' has shape \(3,\), expected \(48,\)"),
        (lambda s: s.update({"synthesis.filter": torch.zeros(4, 4)}), "'synthesis.filter' is not the filter"),
        (
            lambda s: s.update({"text_head.transformer.res_blocks.0.mlp.c_fc.bias": torch.zeros(256)}),
            "differs from its duplicate",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_named(constructor, weights, change, message):
    state = dict(weights)
    change(state)
    with pytest.raises(ValueError, match=message):
        from_official(state, constructor)


def test_unknown_and_unsupported_options_are_refused(constructor):
    with pytest.raises(
        ConfigError, match="unknown constructor option 'num_expert'; did you mean 'num_experts'"
    ):
        config_from_constructor({**constructor, "num_expert": {}})
    with pytest.raises(ConfigError, match="mask_self=True is not supported"):
        config_from_constructor({**constructor, "mask_self": True})


@pytest.mark.parametrize("key", ["generator_smooth", "generator", None])
def test_files_are_read_without_unpickling_code(tmp_path, weights, key):
    other = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    content = weights if key is None else {key: weights, "iter": 3}
    if key == "generator_smooth":
        content["generator"] = other  # the average is preferred
    torch.save(content, tmp_path / "aurora.pth")
    read = read_official(tmp_path / "aurora.pth")
    assert all(torch.equal(read[k], v) for k, v in weights.items())
    save_file({k: v.clone() for k, v in weights.items()}, tmp_path / "aurora.safetensors")
    assert read_official(tmp_path / "aurora.safetensors").keys() == weights.keys()


class Dangerous:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_are_no_checkpoints_are_refused_in_one_line(tmp_path, capsys):
    for name, content in {"code.pth": {"generator": Dangerous()}, "list.pth": [1, 2]}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=name) as error:
            read_official(tmp_path / name)
        assert "\n" not in str(error.value)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth"):
        read_official(tmp_path / "text.pth")
    with pytest.raises(ValueError, match="no such file"):
        read_official(tmp_path / "absent.pth")
    assert "code ran" not in capsys.readouterr().out


def test_written_files_are_read_again(tmp_path, generator, weights):
    write_official(generator, tmp_path / "out.pth")
    read = read_official(tmp_path / "out.pth")
    assert read.keys() == weights.keys() and all(torch.equal(read[k], v) for k, v in weights.items())

"""Super-resolution: Real-ESRGAN's weights, tiles, names, refusals, and the command from end to end."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import impasto.upscaling
from impasto import assets
from impasto.assets import MissingAssetError
from impasto.cli import main
from impasto.pictures import from_images, open_picture, read_settings, save_png, to_images
from impasto.upscaling.lanczos import resize
from impasto.upscaling.loading import NETWORKS, PACKAGE, load_network, load_upscaler
from impasto.upscaling.ncnn import fill
from impasto.upscaling.networks import SRVGG
from impasto.upscaling.optional import MissingLibraryError
from impasto.upscaling.tiled import NetworkUpscaler, spans
from tests.test_layout import FAMILIES, TOP, imported_parts


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def shapes(count: int = 2, height: int = 12, width: int = 16) -> Tensor:
    """Smooth pictures [count,3,height,width], each different, with an edge."""
    rows = torch.linspace(-1, 1, height)[None, None, :, None]
    columns = torch.linspace(-1, 1, width)[None, None, None, :]
    colours = torch.rand(count, 3, 1, 1) - 0.5
    edge = (rows**2 + columns**2 < 0.4).float() * 0.6
    return (colours + 0.2 * rows - 0.2 * columns + edge).clamp(-1, 1)


@pytest.fixture(scope="module")
def srvgg() -> nn.Module:
    return load_network("realesrgan")


@pytest.fixture
def random_srvgg() -> nn.Module:
    return SRVGG(width=8, hidden=2).eval()


def write_ncnn(network: SRVGG, stem: Path, half: bool) -> None:
    """A network in the two files of ncnn."""
    lines, numbers = ["Input in 0 1 data"], b""
    for index, module in enumerate(network.layers):
        if isinstance(module, nn.PReLU):
            lines.append(f"PReLU p{index} 1 1 x{index} x{index + 1} 0={module.num_parameters}")
            numbers += module.weight.detach().numpy().tobytes()
            continue
        count = module.weight.numel()
        lines.append(
            f"Convolution c{index} 1 1 x{index} x{index + 1} 0={module.out_channels} 1=3 4=1 5=1 6={count}"
        )
        weight = module.weight.detach().half() if half else module.weight.detach()
        numbers += (0x01306B47 if half else 0).to_bytes(4, "little") + weight.numpy().tobytes()
        numbers += b"\0" * (-len(numbers) % 4) + module.bias.detach().numpy().tobytes()
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n"
    stem.with_suffix(".param").write_text(text, encoding="utf-8")
    stem.with_suffix(".bin").write_bytes(numbers)


def test_the_package_knows_no_family() -> None:
    for path in Path(impasto.upscaling.__file__).parent.glob("*.py"):
        assert imported_parts(path).isdisjoint(FAMILIES | TOP), path


def test_the_options_import_nothing_heavy() -> None:
    code = "import sys, impasto.upscaling.command; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_esrgan_makes_sharp_pictures_like_the_input(srvgg: nn.Module) -> None:
    assert sum(parameter.numel() for parameter in srvgg.parameters()) == 621_424
    upscaler, images = load_upscaler("realesrgan", 4), shapes()
    assert (upscaler.name, upscaler.scale) == ("realesrgan", 4)
    large = upscaler.upscale(images)
    assert large.shape == (2, 3, 48, 64) and large.dtype == torch.float32 and large.abs().max() <= 1
    assert not large.requires_grad
    reduced = torch.stack([resize(picture, 12, 16) for picture in large])
    assert (reduced - images).abs().mean() < 0.04 and (reduced - images).abs().max() < 0.4
    smooth = load_upscaler("lanczos", 4).upscale(images)
    steepest = [(picture[..., 1:] - picture[..., :-1]).abs().amax() for picture in (large, smooth)]
    assert steepest[0] > 1.5 * steepest[1]


@pytest.mark.parametrize("colour", [(-1.0, -1.0, -1.0), (0.6, -0.4, 0.1), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("spec", ["realesrgan", "realesrgan-anime", "lanczos"])
def test_a_constant_picture_stays_nearly_constant(spec: str, colour: tuple[float, ...]) -> None:
    image = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 12, 12)
    large = load_upscaler(spec, 4).upscale(image)
    inside = large[..., 8:-8, 8:-8]  # networks fill up with black beyond the border
    assert (inside - image[..., :1, :1]).abs().max() < 0.08


def test_every_network_of_the_package_is_read_and_near_the_input() -> None:
    images = shapes(1, 16, 16)
    for name in NETWORKS:
        large = load_upscaler(name, 4).upscale(images)[0]
        assert large.shape == (3, 64, 64)
        difference = (resize(large, 16, 16) - images[0])[
            ..., 3:-3, 3:-3
        ]  # the border is filled up with black
        assert difference.abs().mean() < 0.08, name


def test_half_of_the_scale_is_the_large_picture_reduced() -> None:
    images = shapes(1)
    large, half = (load_upscaler("realesrgan", scale).upscale(images) for scale in (4, 2))
    assert half.shape == (1, 3, 24, 32) and torch.equal(half[0], resize(large[0], 24, 32))


@pytest.mark.parametrize("spec", ["realesrgan", "lanczos"])
def test_a_picture_does_not_depend_on_the_others(spec: str) -> None:
    upscaler, images = load_upscaler(spec, 4), shapes(3)
    together = upscaler.upscale(images)
    for index in range(3):
        assert torch.equal(together[index], upscaler.upscale(images[index : index + 1])[0])
    assert upscaler.upscale(images[:0]).shape[0] == 0


def test_spans_keep_everything_once_with_enough_around_it() -> None:
    for length in (1, 5, 16, 17, 40, 64, 101):
        found = spans(length, 16, 5)
        kept = [pixel for span in found for pixel in range(span.kept_start, span.kept_stop)]
        assert kept == list(range(length))
        for span in found:
            assert span.stop - span.start == min(16, length)
            assert span.start == 0 or span.kept_start - span.start >= 5
            assert span.stop == length or span.stop - span.kept_stop >= 5


@pytest.mark.parametrize(("height", "width"), [(50, 75), (46, 61), (10, 90)])
def test_tiles_give_the_whole_picture_where_the_overlap_covers_the_radius(
    srvgg: SRVGG, height: int, width: int
) -> None:
    assert srvgg.radius == 18
    images = torch.rand(1, 3, height, width) * 2 - 1
    whole = NetworkUpscaler("srvgg", srvgg, 4, tile=None).upscale(images)
    tiled = NetworkUpscaler("srvgg", srvgg, 4, tile=44, overlap=18).upscale(images)
    torch.testing.assert_close(tiled, whole, atol=2e-5, rtol=0)
    narrow = NetworkUpscaler("srvgg", srvgg, 4, tile=44, overlap=4).upscale(images)
    assert (narrow - whole).abs().max() > 1e-3  # so that the line above says something


def test_pictures_larger_than_a_tile_go_in_tiles_by_default(random_srvgg: nn.Module) -> None:
    seen: list[tuple[int, ...]] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return random_srvgg(x)

    NetworkUpscaler("watched", watched, 4).upscale(torch.zeros(1, 3, 300, 40))
    assert seen == [(1, 3, 256, 40)] * 2


@pytest.mark.parametrize("half", [False, True])
def test_weights_of_ncnn_are_read_in_order(random_srvgg: SRVGG, tmp_path: Path, half: bool) -> None:
    write_ncnn(random_srvgg, tmp_path / "net", half)
    other = SRVGG(width=8, hidden=2)
    fill(other, tmp_path / "net")
    for name, expected in random_srvgg.state_dict().items():
        atol = 1e-3 if half else 0
        torch.testing.assert_close(other.state_dict()[name], expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".bin", lambda data: data[:-3], "cut off after"),
        (".bin", lambda data: b"", "cut off after 0 bytes"),
        (".bin", lambda data: data + b"\0\0\0\0", "of which the network uses"),
        (".bin", lambda data: b"\1\2\3\4" + data[4:], "weights of type 0x4030201"),
        (".param", lambda data: b"\x89PNG" + data, "not the text of an ncnn network"),
        (".param", lambda data: b"", "begins with 7767517"),
        (".param", lambda data: data.replace(b"7767517", b"7767518"), "begins with 7767517"),
        (".param", lambda data: data[:200], "(cannot be read|promises)"),
        (".param", lambda data: b"\n".join(data.splitlines()[:-1]), "7 layers, not the 8"),
        (".param", lambda data: data.replace(b"PReLU", b"ReLU"), "3? layers with weights, the network has 7"),
        (".param", lambda data: data.replace(b"0=8 1=3", b"0=9 1=3", 1), "layer 0 with weights is not"),
        (".param", lambda data: data.replace(b"0=8 1=3", b"0=8 nothing", 1), "cannot be read"),
    ],
)
def test_damaged_files_are_named_in_one_line(
    random_srvgg: SRVGG, tmp_path: Path, suffix: str, change, message: str
) -> None:
    write_ncnn(random_srvgg, tmp_path / "net", half=True)
    file = tmp_path / f"net{suffix}"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=message) as refusal:
        fill(SRVGG(width=8, hidden=2), tmp_path / "net")
    assert str(refusal.value).startswith(str(file)) and "\n" not in str(refusal.value)


def test_an_absent_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_location", lambda module: None)
    with pytest.raises(MissingAssetError, match=rf"{PACKAGE}==1.0.1$"):
        load_upscaler("realesrgan", 4)
    assert load_upscaler("lanczos", 3).scale == 3


@pytest.mark.parametrize(
    ("spec", "scale", "message"),
    [
        ("realesrgan", 3, "'realesrgan' upscales by 4 or 2, not by 3; use --upscaler lanczos"),
        ("realesrgan-photo", 8, "by 4 or 2, not by 8; use --upscaler lanczos"),
        ("lanczos", 0, "scale=0 should be at least 1"),
        ("realesrgam", 4, "unknown upscaler 'realesrgam'; did you mean 'realesrgan'"),
        ("spandrel:", 4, "name a file that ends in .safetensors or .pth"),
        ("spandrel:net.pt", 4, "name a file that ends in .safetensors or .pth"),
        ("spandrel:absent.pth", 4, "absent.pth: no such file"),
        ("diffusers:absent", 4, "by 2, not by 4; use --upscaler lanczos"),
        ("diffusers:absent", 2, "holds model_index.json"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(spec: str, scale: int, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        load_upscaler(spec, scale)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_tensors_that_are_no_pictures_and_tiles_that_leave_nothing_are_refused(
    random_srvgg: nn.Module,
) -> None:
    with pytest.raises(ValueError, match=r"should be \[B, 3, H, W\], not \[1, 1, 8, 8\]"):
        load_upscaler("lanczos", 2).upscale(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="overlap=16 should be from 0 to less than half of tile=32"):
        NetworkUpscaler("tiny", random_srvgg, 4, tile=32, overlap=16)
    with pytest.raises(ValueError, match="'doubling' made"):
        NetworkUpscaler("doubling", lambda x: x.repeat(1, 1, 2, 2), 4).upscale(torch.zeros(1, 3, 8, 8))


class _Descriptor:
    """As spandrel describes a network, as far as it is used."""

    scale, input_channels, output_channels, tiling = 2, 3, 3, SimpleNamespace(name="SUPPORTED")

    def __call__(self, x: Tensor) -> Tensor:
        assert x.min() >= 0 and x.max() <= 1
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def eval(self) -> "_Descriptor":
        return self

    def to(self, device: torch.device) -> "_Descriptor":
        return self


class _Loader:
    def __init__(self, device: str) -> None:
        pass

    def load_from_file(self, path: Path) -> _Descriptor:
        if path.read_bytes():
            raise KeyError("unknown architecture\nand more")
        return _Descriptor()


@pytest.fixture
def fake_spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("spandrel")
    module.ModelLoader, module.ImageModelDescriptor = _Loader, _Descriptor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spandrel", module)


@pytest.mark.usefixtures("fake_spandrel")
def test_a_checkpoint_through_spandrel(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").touch()
    upscaler = load_upscaler(f"spandrel:{tmp_path / 'net.safetensors'}", 2).to("cpu")
    assert (upscaler.name, upscaler.scale) == ("spandrel:net.safetensors", 2)
    images = shapes()
    expected = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(upscaler.upscale(images), expected)
    with pytest.raises(ValueError, match="upscales by 2, not by 4"):
        load_upscaler(f"spandrel:{tmp_path / 'net.safetensors'}", 4)
    (tmp_path / "bad.pth").write_bytes(b"pickled")
    with pytest.raises(
        ValueError, match=r"bad.pth: spandrel cannot load it: .*unknown architecture"
    ) as refusal:
        load_upscaler(f"spandrel:{tmp_path / 'bad.pth'}", 2)
    assert "\n" not in str(refusal.value)


class _LatentPipeline:
    """As diffusers' pipeline is called, as far as it is used."""

    @classmethod
    def from_pretrained(cls, directory: Path, **options: bool) -> "_LatentPipeline":
        assert options == {"local_files_only": True, "use_safetensors": True}
        return cls()

    def set_progress_bar_config(self, disable: bool) -> None:
        pass

    def to(self, device: str) -> None:
        pass

    def __call__(self, prompt: str, image: Tensor, generator: torch.Generator, **options):
        assert image.shape == (1, 3, 64, 64) and image.min() >= 0 and prompt == ""
        assert options == {"num_inference_steps": 20, "guidance_scale": 0, "output_type": "np"}
        large = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
        noise = 1e-3 * torch.rand(large.shape, generator=generator)
        return SimpleNamespace(images=(large + noise).permute(0, 2, 3, 1).numpy())


def test_the_latent_upscaler_of_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("diffusers")
    module.StableDiffusionLatentUpscalePipeline = _LatentPipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffusers", module)
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    upscaler, images = load_upscaler(f"diffusers:{tmp_path}", 2).to("cpu"), shapes()
    large = upscaler.upscale(images)  # sides that are no multiples of 64
    expected = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(large, expected, atol=3e-3, rtol=0)
    assert torch.equal(upscaler.upscale(images[1:])[0], large[1])


@pytest.mark.parametrize("library", ["spandrel", "diffusers"])
def test_absent_libraries_are_told_with_the_command(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "model_index.json").touch()
    (tmp_path / "net.pth").touch()
    place = tmp_path / "net.pth" if library == "spandrel" else tmp_path
    with pytest.raises(MissingLibraryError, match=rf"run: pip install {library}$"):
        load_upscaler(f"{library}:{place}", 2)


def test_generate_writes_upscaled_pictures(tmp_path: Path, capsys) -> None:
    prompts = ("a red circle", "a blue square")
    command = ["generate", *prompts, "-n", "2", "--seed", "3", "--model", "aurora-scenes-32"]
    small, large = tmp_path / "small", tmp_path / "large"
    assert run(capsys, *command, "--out", str(small))[0] == 0
    status, printed, errors = run(capsys, *command, "--upscale", "4", "--out", str(large))
    assert (status, errors) == (0, "") and "4 pictures and sheet.png" in printed
    for index in range(4):
        before, after = (folder / f"{index:06d}.png" for folder in (small, large))
        picture = open_picture(after)
        assert picture.size == (128, 128)
        expected = from_images([open_picture(before)])[0]
        assert (resize(from_images([picture])[0], 32, 32) - expected).abs().mean() < 0.04
        added = {"upscale": 4, "upscaler": "realesrgan"}
        assert read_settings(after) == {**read_settings(before), **added}
    assert open_picture(large / "sheet.png").size == open_picture(small / "sheet.png").size
    status, _, _ = run(capsys, *command, "--upscale", "16", "--upscaler", "lanczos", "--out", str(large))
    assert status == 0 and open_picture(large / "000000.png").size == (512, 512)
    assert open_picture(large / "sheet.png").width == 2 * (256 + 6) + 6


def test_generate_upscales_pictures_of_mars(tmp_path: Path, capsys) -> None:
    command = ["generate", "a red circle", "--model", "mars-nano", "--out", str(tmp_path)]
    assert run(capsys, *command)[0] == 0
    side = open_picture(tmp_path / "000000.png").width
    assert run(capsys, *command, "--upscale", "2")[0] == 0
    assert open_picture(tmp_path / "000000.png").width == 2 * side
    assert read_settings(tmp_path / "000000.png")["upscale"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--upscaler", "lanczos"], "--upscaler needs --upscale N"),
        (["--upscale", "3"], "not by 3; use --upscaler lanczos"),
        (["--upscale", "4", "--upscaler", "bicubic"], "unknown upscaler 'bicubic'"),
        (["--upscale", "4", "--device", "warp"], "--device warp is not usable"),
    ],
)
def test_generate_refuses_before_it_draws(tmp_path: Path, capsys, options: list[str], message: str) -> None:
    out = tmp_path / "out"
    status, printed, errors = run(capsys, "generate", "x", *options, "--out", str(out))
    assert status == 2 and message in errors and errors.count("\n") == 1 and not printed
    assert not out.exists()


def test_upscale_enlarges_picture_files(tmp_path: Path, capsys) -> None:
    first, second = to_images(shapes())
    save_png(first, tmp_path / "made.png", {"prompt": "a shape", "seed": 1})
    second.save(tmp_path / "photo.jpg")
    out, files = tmp_path / "out", [str(tmp_path / "made.png"), str(tmp_path / "photo.jpg")]
    status, printed, errors = run(capsys, "upscale", *files, "--out", str(out))
    assert (status, errors) == (0, "") and "wrote 2 pictures" in printed
    assert sorted(path.name for path in out.iterdir()) == ["made.png", "photo.png"]
    assert {open_picture(path).size for path in out.iterdir()} == {(64, 48)}
    told = {"upscale": 4, "upscaler": "realesrgan"}
    assert read_settings(out / "made.png") == {"prompt": "a shape", "seed": 1, **told}
    assert read_settings(out / "photo.png") == told


def test_upscale_writes_over_no_picture(tmp_path: Path, capsys) -> None:
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "other" / "a.jpg"):
        Image.new("RGB", (8, 8)).save(path)
    before = (tmp_path / "a.png").read_bytes()
    lanczos = ["--upscaler", "lanczos", "--out", str(tmp_path)]
    status, _, errors = run(capsys, "upscale", str(tmp_path / "a.png"), *lanczos)
    assert status == 2 and "name another --out" in errors and (tmp_path / "a.png").read_bytes() == before
    both = [str(tmp_path / "a.png"), str(tmp_path / "other" / "a.jpg")]
    status, _, errors = run(capsys, "upscale", *both, "--out", str(tmp_path / "out"))
    assert status == 2 and "would both be written to" in errors
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    status, _, errors = run(capsys, "upscale", str(tmp_path / "text.png"), "--out", str(tmp_path / "out"))
    assert status == 2 and "not an image that can be read" in errors and not (tmp_path / "out").exists()

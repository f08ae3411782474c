"""The README's commands do what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from benchmarks.readme import NOT_RUN, commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_commands():
    assert sum(not line.startswith(NOT_RUN) for line in commands()) >= 3


def test_shell_commands(tmp_path):
    """In order, in one folder: later commands use what earlier ones made."""
    for command in commands():
        if command.startswith(NOT_RUN):
            continue
        program, *arguments = shlex.split(command)
        assert program == "impasto"
        result = subprocess.run(
            [sys.executable, "-m", "impasto.cli", *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, (command, result.stderr)


def test_python_blocks(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        result = subprocess.run(
            [sys.executable, "-W", "error::SyntaxWarning", "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr


def test_links_to_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target

"""The notebook of the docs runs, cell after cell."""

import ast
import json
from pathlib import Path
from typing import Any

from PIL import Image

NOTEBOOK = Path(__file__).parent.parent / "docs/first-pictures.ipynb"


def test_every_cell_runs_and_shows_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    shown = []
    for cell in document["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"]
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop()
        assert isinstance(last, ast.Expr)
        exec(compile(tree, "cell", "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    assert sum(isinstance(one, Image.Image) for one in shown) >= 5 and all(shown)
    assert not list(tmp_path.iterdir())

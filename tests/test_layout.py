"""Which part may import which: nn <- text, vision <- aurora, mars; runtime, data, metrics know no family."""

import ast
from pathlib import Path

import pytest

import impasto

PACKAGE = Path(impasto.__file__).parent
FAMILIES = {"aurora", "mars"}
TOP = {
    "cli",
    "families",
    "drawing",
    "orders",
    "generate_command",
    "export_command",
    "loading",
    "evaluation",
    "exploring_command",
    "exploring_report",
    "exploring_model",
    "training_families",
    "writing_command",
    "serve",
}  # the only places that know the families
FORBIDDEN = {
    "nn": FAMILIES | TOP | {"text", "vision", "runtime", "data", "metrics"},
    "text": FAMILIES | TOP | {"vision", "data", "metrics"},
    "vision": FAMILIES | TOP | {"metrics"},
    "runtime": FAMILIES | TOP | {"nn", "text", "vision", "data", "metrics"},
    "data": FAMILIES | TOP | {"nn", "vision", "metrics"},
    "metrics": FAMILIES | TOP,
    "upscaling": FAMILIES | TOP | {"text", "vision", "data", "metrics"},
    "aurora": {"mars"} | TOP,
    "mars": {"aurora"} | TOP,
}


def imported_names(path: Path) -> set[str]:
    """Of modules, and of what is taken from them behind a dot, at a file's head or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_names(path) if name.startswith("impasto.")}


def imported_files(path: Path) -> set[Path]:
    """Those of the package."""
    places = [PACKAGE.parent.joinpath(*name.split(".")) for name in imported_names(path)]
    files = {file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")}
    return {file for file in files if file.is_file()} - {path}


def test_no_files_import_each_other_in_a_circle():
    """Packages' own __init__ files apart, which gather what lies beside them."""
    imports = {path: {p for p in imported_files(path) if p.name != "__init__.py"} for path in SOURCES}
    done: set[Path] = set()
    while ready := [path for path in imports if path not in done and imports[path] <= done]:
        done |= set(ready)
    assert sorted(str(path.relative_to(PACKAGE)) for path in set(imports) - done) == []


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert imported_parts(path).isdisjoint(FORBIDDEN.get(part, set()))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500, "hard limit of a file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            body = node.end_lineno - node.body[0].lineno + 1
            assert body <= 60, f"{node.name} has {body} lines"

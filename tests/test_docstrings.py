"""Docstrings: what is public has one, and it names the errors that the code below it raises."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import impasto

PACKAGE = Path(impasto.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
ERRORS_ELSEWHERE = ("Raises as", "Errors as", "DataError as", "errors as")  # said of another function
UNTOLD = {
    "mars/superres_study.py:parse",
    "serve/command.py:run",
    "serve/schemas.py:Request",  # a docstring of these would be shown to the API's users
    "serve/schemas.py:ImageUrl",
    "serve/schemas.py:ContentPart",
    "serve/schemas.py:Message",
}  # exceptions; take out what has a docstring

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def documented(node: ast.Module | Definition) -> str:
    return ast.get_docstring(node) or ""


def untold_errors(node: Definition, told: str) -> list[str]:
    """Names of raised errors (of ExpectedError and ValueError) that `told` leaves out. One
    of their base classes serves as well."""
    if any(phrase in told for phrase in ERRORS_ELSEWHERE):
        return []
    raised = {
        inner.exc.func.id
        for inner in ast.walk(node)
        if isinstance(inner, ast.Raise)
        and isinstance(inner.exc, ast.Call)
        and isinstance(inner.exc.func, ast.Name)
    }
    missing = []
    for name in sorted(raised):
        kinds = lineage(name)
        if kinds and not any(kind in told for kind in kinds):
            missing.append(name)
    return missing


def bases_of_all() -> dict[str, str]:
    """{class: its first base} of the whole package; names of errors are unique in it."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES)
    return {
        node.name: ast.unparse(node.bases[0])
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.bases
    }


BASES = bases_of_all()


def lineage(name: str) -> list[str]:
    """The class and its bases up to ExpectedError or ValueError; nothing for a class of another kind."""
    found = [name]
    while found[-1] not in ("ExpectedError", "ValueError"):
        if found[-1] not in BASES:
            return []
        found.append(BASES[found[-1]])
    return found


def key(path: Path, name: str) -> str:
    return f"{path.relative_to(PACKAGE).as_posix()}:{name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_is_public_is_described(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert documented(tree) or path.name == "__init__.py", f"{path} does not say what it is"
    bare = {key(path, node.name) for node in public(tree.body) if not documented(node)}
    assert bare <= UNTOLD


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_errors_are_named(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in public(tree.body):
        owner = node if isinstance(node, ast.ClassDef) else None
        for function in public(node.body) if owner else (node,):
            told = documented(function)
            if not told or isinstance(function, ast.ClassDef) or key(path, function.name) in UNTOLD:
                continue
            missing = untold_errors(function, told + (documented(owner) if owner else ""))
            assert not missing, f"{key(path, function.name)} raises {', '.join(missing)}"

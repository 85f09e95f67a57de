"""The project's own source as syntax trees, for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src"
ROOT = "tunewise"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One file under src.

    Attributes:
        name: dotted name, "tunewise.model.base".
        path: the file.
        text: its content.
        tree: its syntax.
    """

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        """What the arrows are drawn between: "model", "errors", "cli", ...; "" is the root."""
        return self.name.split(".")[1] if "." in self.name else ""


def parse(name: str, text: str, path: Path = Path("example.py")) -> Module:
    """A module from its text."""
    return Module(name=name, path=path, text=text, tree=ast.parse(text))


def modules() -> dict[str, Module]:
    """Every module under src, by dotted name."""
    found = {}
    for path in sorted((SOURCE / ROOT).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = parse(name, path.read_text(encoding="utf-8"), path)
    return found


def imports(module: Module, known: set[str]) -> Iterator[tuple[str, int]]:
    """The project's own modules that a module imports, at its top or inside a function.

    Args:
        module: the importing module.
        known: all names of modules, to tell `from package import module` from
            `from module import name`.

    Yields:
        Dotted name and line.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == ROOT:
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                package = module.name if module.path.name == "__init__.py" else _parent(module.name)
                for _ in range(node.level - 1):
                    package = _parent(package)
                start = f"{package}.{start}".rstrip(".")
            if start.split(".")[0] == ROOT:
                for alias in node.names:
                    inner = f"{start}.{alias.name}"
                    yield (inner if inner in known else start), node.lineno


def foreign_imports(module: Module) -> set[str]:
    """The top-level packages of others that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names - {ROOT}


def functions(module: Module) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            yield node


def at_import(module: Module) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported."""
    waiting: list[ast.AST] = list(module.tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.Lambda):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def place(module: Module, node: ast.AST) -> str:
    """Where a node stands, for messages."""
    return f"{module.path.name}:{getattr(node, 'lineno', 0)} ({module.name})"


def _parent(name: str) -> str:
    return name.rpartition(".")[0]

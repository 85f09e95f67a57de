"""Which part may import which, and what may not be loaded by which."""

from __future__ import annotations

import graphlib
import subprocess
import sys
from collections.abc import Mapping

import pytest
from tests.architecture.source import (
    REPOSITORY,
    ROOT,
    Module,
    foreign_imports,
    imports,
    modules,
    parse,
)

MATHS = {"errors", "numerics"}
BELOW_METHODS = {*MATHS, "discovery", "task", "model", "adaptation"}
# Part -> the parts it may import. A part that is not here fails: say where it belongs first.
ALLOWED: Mapping[str, set[str]] = {
    "__main__": {"cli"},
    "errors": set(),
    "numerics": {"errors"},
    "discovery": {"errors"},
    "task": MATHS,
    "model": MATHS,
    "adaptation": {*MATHS, "discovery", "task", "model"},
    "propose": BELOW_METHODS,
    "methods": {*BELOW_METHODS, "propose"},
    "measure": BELOW_METHODS,
    "compare": MATHS,
    "serve": BELOW_METHODS,
    "config": {*MATHS, "task"},
    "steps": {*BELOW_METHODS, "methods", "measure"},
    "planning": {*BELOW_METHODS, "methods", "measure", "steps"},
    "jobs": {*BELOW_METHODS, "methods", "measure", "steps"},
    "climb": {*BELOW_METHODS, "methods", "measure", "compare", "steps", "planning", "jobs"},
    "refits": {*BELOW_METHODS, "methods", "measure", "steps", "jobs"},
    "asking": {*BELOW_METHODS, "methods", "measure", "compare", "serve", "steps", "jobs", "refits"},
    "wanted": {
        *BELOW_METHODS,
        "methods",
        "measure",
        "config",
        "steps",
        "planning",
        "jobs",
        "climb",
        "asking",
        "compare",
    },
    "early": {"errors", "discovery", "task", "model", "config", "compare"},
    "pipeline": {
        *BELOW_METHODS,
        "methods",
        "measure",
        "compare",
        "serve",
        "config",
        "steps",
        "planning",
        "jobs",
        "climb",
        "asking",
        "wanted",
    },
    "cli": {
        *BELOW_METHODS,
        "methods",
        "measure",
        "compare",
        "serve",
        "config",
        "steps",
        "planning",
        "jobs",
        "climb",
        "asking",
        "pipeline",
        "early",
    },
    "api": {
        *BELOW_METHODS,
        "compare",
        "config",
        "early",
        "steps",
        "pipeline",
        "cli",
    },
}
# Single modules a part may import besides: records that hold no code of their part, and settings.
ALLOWED_MODULES: Mapping[str, set[str]] = {
    "compare": {
        "tunewise.measure.evidence",
        "tunewise.measure.files",
        "tunewise.measure.records",
        "tunewise.task.types",
    },
    "early": {
        "tunewise.methods._contract",
        "tunewise.methods._settings._find",
    },
}
HEAVY = ("torch", "transformers", "peft")
LIGHT = ("", "errors", "config", "task", "compare", "early")


def wrong_arrows(module: Module, known: set[str]) -> list[str]:
    """The imports of a module that no arrow allows."""
    wrong = []
    for name, line in imports(module, known):
        target = name.split(".")[1] if "." in name else ""
        if module.unit == "":
            continue
        allowed = target == module.unit or target in ALLOWED.get(module.unit, set())
        if target == "" or not (allowed or name in ALLOWED_MODULES.get(module.unit, set())):
            wrong.append(f"{module.name}:{line} imports {name}")
    return wrong


def test_every_part_has_its_arrows_drawn() -> None:
    parts = {module.unit for module in modules().values()} - {""}
    assert parts <= set(ALLOWED)


def test_no_import_goes_against_the_arrows() -> None:
    found = modules()
    wrong = [line for module in found.values() for line in wrong_arrows(module, set(found))]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = modules()
    graph = {
        name: {target for target, _ in imports(module, set(found))} - {name}
        for name, module in found.items()
    }
    # Raises CycleError, which names the circle.
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tunewise.task.x", "from tunewise.model.base import Base"),
        ("tunewise.model.x", "def f():\n    import tunewise.task.types"),
        ("tunewise.methods.x", "from tunewise.measure import records"),
        ("tunewise.measure.x", "from tunewise.methods._registry import discover_methods"),
        ("tunewise.compare.x", "from tunewise.adaptation.parts import Part"),
        ("tunewise.compare.x", "from tunewise.task.load import load_task"),
        ("tunewise.errors", "from tunewise.numerics import intervals"),
        ("tunewise.model.x", "import tunewise"),
        ("tunewise.model.x", "from tunewise import __version__"),
        ("tunewise.model.x", "from ..task import types"),
        ("tunewise.newpart.x", "from tunewise.errors import DataError"),
    ],
)
def test_a_wrong_arrow_is_seen(name: str, text: str) -> None:
    assert wrong_arrows(parse(name, text), set(modules()))


def test_a_right_arrow_is_not_reported() -> None:
    text = "import torch\nfrom tunewise.measure.records import Estimate\nfrom . import table"
    assert not wrong_arrows(parse("tunewise.compare.x", text), set(modules()))


@pytest.mark.parametrize("part", ["task", "compare", "errors", "config"])
def test_light_parts_never_name_a_heavy_package(part: str) -> None:
    wrong = [
        f"{module.name} imports {', '.join(sorted(heavy))}"
        for module in modules().values()
        if module.unit == part and (heavy := foreign_imports(module) & set(HEAVY))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", LIGHT)
def test_importing_a_light_part_does_not_load_a_heavy_package(part: str) -> None:
    names = [name for name, module in modules().items() if module.unit == part]
    if part == "":
        names = [ROOT]
    if not names:
        pytest.skip(f"{part} is not written yet")
    lines = [*(f"import {name}" for name in names), "import sys"]
    lines.append(f"print(*(name for name in {HEAVY!r} if name in sys.modules))")
    done = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_packages_export_nothing_of_their_own() -> None:
    # A package that imports its modules would make every import of one load all.
    wrong = [
        name
        for name, module in modules().items()
        if name != ROOT
        and module.unit != "cli"
        and module.path.name == "__init__.py"
        and len(module.tree.body) != 1
    ]
    assert not wrong

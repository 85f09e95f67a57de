"""Methods are found by lying in the folder, not by standing in a list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.architecture.source import SOURCE, modules, place

from tunewise.adaptation.parts import PART_KINDS
from tunewise.errors import ConfigError, UnknownNameError
from tunewise.methods._contract import MethodSettings
from tunewise.methods._registry import discover_methods, find_method

FOLDER = SOURCE / "tunewise" / "methods"
TOY = '''
"""A method for this test."""
from tunewise.methods._contract import MethodSettings, Needs


class _Toy:
    name = "{name}"
    summary = "does nothing"
    produces = ("prompt_text",)
    needs = Needs()
    Settings = MethodSettings

    def fit(self, context, settings):
        raise NotImplementedError


METHOD = _Toy()
'''


def test_every_file_is_a_method_of_its_own_name() -> None:
    files = {path.stem for path in FOLDER.glob("[!_]*.py")}
    assert files, "no methods"
    assert files <= set(discover_methods())


def test_every_method_says_what_it_is() -> None:
    for name, method in discover_methods().items():
        assert method.name == name
        assert method.summary
        assert "\n" not in method.summary
        assert method.produces
        assert set(method.produces) <= set(PART_KINDS)
        assert issubclass(method.Settings, MethodSettings)


def test_every_setting_has_a_line_and_a_default() -> None:
    wrong = [
        f"{name}.{field}"
        for name, method in discover_methods().items()
        for field, info in method.Settings.model_fields.items()
        if not info.description or "\n" in info.description or info.is_required()
    ]
    assert not wrong


def test_no_lower_part_asks_for_a_method_by_name() -> None:
    # Measuring, storing and serving know parts. Comparisons with a method's name would undo that.
    # A few names are also plain words with other meanings there.
    names = set(discover_methods()) - {"lead", "full", "prefix", "majority"}
    lower = {"errors", "numerics", "task", "model", "adaptation", "measure", "serve"}
    wrong = [
        f"{place(module, node)}: {ast.unparse(node)}"
        for module in modules().values()
        if module.unit in lower
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(leaf, ast.Constant) and leaf.value in names for leaf in ast.walk(node))
    ]
    assert not wrong


def test_a_file_in_another_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY.format(name="toy"))
    (tmp_path / "_not_one.py").write_text("raise RuntimeError")
    assert find_method("toy", discover_methods([tmp_path])).summary == "does nothing"


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(TOY.format(name="toy"))
    (tmp_path / "second.py").write_text(TOY.format(name="toy"))
    with pytest.raises(ConfigError, match="share a name"):
        discover_methods([tmp_path])


def test_a_file_without_a_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text('"""Nothing here."""')
    with pytest.raises(ConfigError, match="does not hold one"):
        discover_methods([tmp_path])


def test_a_misspelt_method_shows_the_close_one(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY.format(name="toy_method"))
    with pytest.raises(UnknownNameError, match="did you mean 'toy_method'"):
        find_method("toy_metod", discover_methods([tmp_path]))

"""The documents tell the truth: links lead somewhere, commands parse, the tree is the tree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from tests.architecture.source import REPOSITORY, SOURCE

from tunewise.cli.main import cli
from tunewise.errors import TunewiseError
from tunewise.methods._registry import discover_methods

README = REPOSITORY / "README.md"
PAGES = sorted([README, *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "demo" / "README.md"])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`(tunewise [^`]+)`")


def links(text: str) -> list[str]:
    """The relative targets of a page's links and pictures, without their anchors."""
    prose = BLOCK.sub("", text)
    found = (target.split("#")[0] for target in LINK.findall(prose))
    return [target for target in found if target and not re.match(r"[a-z]+:", target)]


def commands(text: str) -> list[str]:
    """Every `tunewise ...` command line of a page: in shell blocks and between backquotes."""
    lines = [
        line.strip()
        for language, block in BLOCK.findall(text)
        if language in {"sh", "bash", "console", ""}
        for line in block.replace("\\\n", " ").splitlines()
    ]
    shell = [line.removeprefix("$ ") for line in lines]
    inline = INLINE.findall(BLOCK.sub("", text))
    return [line for line in [*shell, *inline] if line.startswith("tunewise ")]


def fault(line: str) -> str:
    """Why the command line cannot be parsed; empty where it can. Nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    if not words or "..." in words:
        return ""
    command: click.Command = cli
    context = click.Context(cli, info_name="tunewise")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        try:
            inner = command.get_command(context, words[0])
        except TunewiseError as error:
            return str(error)
        if inner is None:
            return f"{line}: there is no {words[0]!r} in {command.name}"
        command = inner
        context = click.Context(command, info_name=words.pop(0), parent=context)
    known = {
        name for each in command.get_params(context) for name in (*each.opts, *each.secondary_opts)
    }
    given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    if given - known:
        return f"{line}: {command.name} has no {', '.join(sorted(given - known))}"
    if isinstance(command, click.Group) or "--help" in given:
        return ""
    try:
        command.make_context(str(command.name), words)
    except click.MissingParameter:
        return ""  # prose names a command without all it needs
    except click.ClickException as error:
        return f"{line}: {error.format_message()}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    wrong = [
        target
        for target in links(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_command_line_parses(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEWISE_METHODS", raising=False)
    # The one method that a page introduces itself.
    lines = [each for each in commands(page.read_text(encoding="utf-8")) if "rephrase" not in each]
    wrong = [found for line in lines if (found := fault(line))]
    assert not wrong, "\n".join(wrong)


def test_the_documents_show_commands_at_all() -> None:
    shown = commands(README.read_text(encoding="utf-8"))
    verbs = {shlex.split(line)[1] for line in shown}
    assert set(cli.commands) <= verbs


@pytest.mark.parametrize(
    "line",
    [
        "tunewise compair tickets.csv",
        "tunewise compare tickets.csv --seed 3",
        "tunewise fit lroa tickets.csv",
        "tunewise fit lora tickets.csv --out x --virtual-tokens 5",
        "tunewise data chekc tickets.csv",
        "tunewise compare one.csv two.csv",
    ],
)
def test_a_wrong_command_line_is_seen(line: str) -> None:
    assert fault(line)


def test_a_broken_link_is_seen() -> None:
    text = "[a](docs/design.md#ideas) [b](https://x.org) ![c](no.png) [d](#here)"
    assert links(text) == ["docs/design.md", "no.png"]


def test_the_readme_names_the_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
    assert (REPOSITORY / "LICENSE").read_text(encoding="utf-8").split()[:2] == ["Apache", "License"]


def test_the_tree_in_the_readme_is_the_tree() -> None:
    blocks = [block for _, block in BLOCK.findall(README.read_text(encoding="utf-8"))]
    (tree,) = [block for block in blocks if block.startswith("src/tunewise/")]
    told = {line.split()[0] for line in tree.splitlines()[1:]}
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (SOURCE / "tunewise").iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert told == there


def test_the_design_names_every_kind_of_part_and_every_root_module() -> None:
    from tunewise.adaptation.parts import PART_KINDS

    text = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = [path.stem for path in (SOURCE / "tunewise").glob("[!_]*.py")]
    assert not [name for name in (*PART_KINDS, *rooms) if f"`{name}" not in text]


def test_every_environment_variable_of_ours_is_documented() -> None:
    names = {
        name
        for path in (SOURCE / "tunewise").rglob("*.py")
        for name in re.findall(r"\"(TUNEWISE_[A-Z]+)\"", path.read_text(encoding="utf-8"))
    }
    told = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert names
    assert not [name for name in names if name not in told]


def test_the_documents_name_methods_that_exist() -> None:
    text = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    assert not [name for name in discover_methods() if f"`{name}`" not in text]

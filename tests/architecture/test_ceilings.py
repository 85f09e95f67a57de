"""The house rules that a reader can count: sizes, documentation, types, and what is not used."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

import pytest
from tests.architecture.source import Function, Module, at_import, functions, modules, parse, place

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
CODE_THAT_RUNS_DATA = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Calls that change the whole process; nobody who imports a library asked for them.
SETTINGS = {
    "manual_seed",
    "seed",
    "basicConfig",
    "setLevel",
    "set_num_threads",
    "set_num_interop_threads",
    "set_default_dtype",
    "set_default_device",
    "set_verbosity_error",
    "use_deterministic_algorithms",
    "putenv",
    "filterwarnings",
    "simplefilter",
}

Rule = Callable[[Module], Iterator[str]]


def long_files(module: Module) -> Iterator[str]:
    """Files over the ceiling."""
    lines = len(module.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{module.path.name}: {lines} lines"


def long_functions(module: Module) -> Iterator[str]:
    """Functions over the ceiling."""
    for function in functions(module):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{place(module, function)}: {function.name} has {lines} lines"


def many_parameters(module: Module) -> Iterator[str]:
    """Functions with too many parameters."""
    for function in functions(module):
        count = len(_parameters(function))
        if count > MAX_PARAMETERS:
            yield f"{place(module, function)}: {function.name} has {count} parameters"


def undocumented(module: Module) -> Iterator[str]:
    """Modules, public classes, functions and methods without a docstring."""
    if not ast.get_docstring(module.tree):
        yield f"{module.path.name}: the module"
    for owner in (module.tree, *_public_classes(module)):
        for node in owner.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                overload = any(
                    isinstance(mark, ast.Name) and mark.id == "overload"
                    for mark in node.decorator_list
                )
                if not overload and not ast.get_docstring(node):
                    yield f"{place(module, node)}: {node.name}"


def unannotated(module: Module) -> Iterator[str]:
    """Functions without full annotations."""
    for function in functions(module):
        bare = [name.arg for name in _parameters(function) if name.annotation is None]
        if bare or function.returns is None:
            yield f"{place(module, function)}: {function.name} {bare}"


def printing(module: Module) -> Iterator[str]:
    """Calls of print outside the command line."""
    if module.unit != "cli":
        for call in _calls(module.tree):
            if isinstance(call.func, ast.Name) and call.func.id == "print":
                yield place(module, call)


def asserting(module: Module) -> Iterator[str]:
    """Assert statements, which `python -O` drops."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            yield place(module, node)


def lenient_zips(module: Module) -> Iterator[str]:
    """Calls of zip that would drop rows in silence."""
    for call in _calls(module.tree):
        if isinstance(call.func, ast.Name) and call.func.id == "zip":
            strict = [key.value for key in call.keywords if key.arg == "strict"]
            if not strict or not (isinstance(strict[0], ast.Constant) and strict[0].value is True):
                yield place(module, call)


def unsafe_loading(module: Module) -> Iterator[str]:
    """Whatever could run code that stands in a file."""
    for node in ast.walk(module.tree):
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module.split(".")[0]}
        if names & CODE_THAT_RUNS_DATA:
            yield f"{place(module, node)}: {', '.join(names & CODE_THAT_RUNS_DATA)}"
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in {"torch.load", "eval", "exec"}:
                yield f"{place(module, node)}: {ast.unparse(node.func)}"
            for key in node.keywords:
                if key.arg in {"trust_remote_code", "allow_pickle"} and not _is_false(key.value):
                    yield f"{place(module, node)}: {key.arg}"
        if isinstance(node, ast.Dict):
            # A dictionary of keywords may only refuse foreign code, never allow it.
            for key, value in zip(node.keys, node.values, strict=True):
                named = isinstance(key, ast.Constant) and key.value == "trust_remote_code"
                if named and not _is_false(value):
                    yield f"{place(module, node)}: trust_remote_code"


def settings_at_import(module: Module) -> Iterator[str]:
    """Seeds, log levels, threads or the environment, changed by an import."""
    for node in at_import(module):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in SETTINGS or name.startswith("os.environ."):
                yield f"{place(module, node)}: {name}"
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(ast.unparse(target).startswith("os.environ") for target in targets):
            yield f"{place(module, node)}: os.environ"


def number_defaults_by_or(module: Module) -> Iterator[str]:
    """`x or 5`, which turns a given 0 into 5."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            last = node.values[-1]
            number = isinstance(last, ast.Constant) and type(last.value) in {int, float}
            if number:
                yield f"{place(module, node)}: {ast.unparse(node)}"


def silenced_checks(module: Module) -> Iterator[str]:
    """Silenced checks without a reason, and promises instead of code."""
    for number, line in enumerate(module.text.splitlines(), start=1):
        silenced = re.search(r"#\s*(noqa|type:\s*ignore)(.*)", line)
        if silenced and not re.search(r" - \w|  # \w", silenced.group(2)):
            yield f"{module.path.name}:{number}: {silenced.group(0)}"
        if re.search(r"#.*\b(TODO|FIXME|XXX)\b", line):
            yield f"{module.path.name}:{number}: {line.strip()}"


RULES: tuple[Rule, ...] = (
    long_files,
    long_functions,
    many_parameters,
    undocumented,
    unannotated,
    printing,
    asserting,
    lenient_zips,
    unsafe_loading,
    settings_at_import,
    number_defaults_by_or,
    silenced_checks,
)
BAD_EXAMPLES: dict[Rule, str] = {
    long_files: "x = 1\n" * (MAX_FILE_LINES + 1),
    long_functions: "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES,
    many_parameters: "def f(a, b, c, d, /, e, *f, g, h, **i): ...",
    undocumented: '"""m"""\nclass C:\n    """c"""\n    def method(self): ...',
    unannotated: "def f(a) -> int: ...",
    printing: "def f():\n    print(1)",
    asserting: "assert x",
    lenient_zips: "zip(a, b, strict=False)",
    unsafe_loading: "load(x, **{'trust_remote_code': flag})",
    settings_at_import: "import torch\nif True:\n    torch.manual_seed(0)",
    number_defaults_by_or: "x = y or 0.5",
    silenced_checks: "x = 1  # noqa: F401",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    broken = [line for module in modules().values() for line in rule(module)]
    assert not broken, "\n".join([rule.__doc__ or "", *broken])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_sees_what_breaks_it(rule: Rule) -> None:
    assert list(rule(parse("tunewise.model.x", BAD_EXAMPLES[rule])))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x')",
        "M.from_pretrained(x, trust_remote_code=True)",
        "np.load(x, allow_pickle=flag)",
        "eval(text)",
    ],
)
def test_unsafe_loading_is_seen(text: str) -> None:
    assert list(unsafe_loading(parse("tunewise.model.x", text)))


def test_refusing_foreign_code_is_allowed() -> None:
    assert not list(unsafe_loading(parse("tunewise.model.x", "f(trust_remote_code=False)")))


def test_a_lambda_or_a_function_does_not_run_at_import() -> None:
    text = "f = lambda: torch.manual_seed(0)\ndef g():\n    torch.manual_seed(0)"
    assert not list(settings_at_import(parse("tunewise.model.x", text)))


def test_no_file_is_called_utils() -> None:
    names = {module.path.stem for module in modules().values()}
    assert not {name for name in names if re.search(r"util|helper|misc|common", name)}


def _parameters(function: Function) -> list[ast.arg]:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    named += [extra for extra in (given.vararg, given.kwarg) if extra is not None]
    return [name for name in named if name.arg not in {"self", "cls"}]


def _public_classes(module: Module) -> list[ast.ClassDef]:
    return [
        node
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False

"""`tunewise fit METHOD DATA`: one subcommand per discovered method, with its settings as flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tunewise.adaptation.folder import check_stored
from tunewise.cli.options import (
    base_option,
    budget_option,
    data_options,
    dtype_option,
    field_options,
    json_option,
    read_task,
    split_data_options,
)
from tunewise.config import DEFAULT_BASE, parse_budget
from tunewise.early import check_columns, check_fresh, check_methods, check_writable
from tunewise.methods._contract import Declared, full_names, parse_settings
from tunewise.methods._settings._find import declared
from tunewise.model.dtypes import check_dtype


class _Methods(click.Group):
    """Finds the methods when asked, so that other commands need not import them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all methods."""
        from tunewise.methods._registry import discover_methods

        return list(discover_methods())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one method.

        Raises:
            UnknownNameError: there is no such method.
        """
        check_methods([cmd_name])
        known = declared(cmd_name)
        if known is None:
            from tunewise.methods._registry import find_method

            known = find_method(cmd_name)
        return _command(known)


@click.group("fit", cls=_Methods)
def fit_group() -> None:
    """Fit one method and store what it finds."""


class _Command(click.Command):
    """The command of a method: what it does is asked of the method only where that is shown."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Above the flags."""
        self.help = self._summary()
        super().format_help_text(ctx, formatter)

    def get_short_help_str(self, limit: int = 45) -> str:
        """In the list of all."""
        return self._summary()

    def _summary(self) -> str:
        from tunewise.methods._registry import find_method

        return find_method(str(self.name)).summary


def _command(method: Declared) -> click.Command:
    names = tuple(method.Settings.model_fields)

    @click.argument("data", required=False)
    @click.option("--out", type=click.Path(path_type=Path), required=True, help="new folder")
    @click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
    @click.option("--start", type=click.Path(path_type=Path), help="adaptation to start from")
    @budget_option
    @base_option
    @dtype_option
    @json_option
    @data_options
    def run(**values: Any) -> None:
        settings = {name: values.pop(name) for name in names}
        _run(method, {name: value for name, value in settings.items() if value is not None}, values)

    taken = {option.name for option in getattr(run, "__click_params__", [])}
    run.__click_params__ += reversed(  # type: ignore[attr-defined]  # click's own place
        [option for option in field_options(method.Settings) if option.name not in taken]
    )
    return click.command(method.name, cls=_Command)(run)


def _settings(method: Declared, table: Mapping[str, Any], flags: Mapping[str, Any]) -> Any:
    """Flags lie over the task file's table of the method."""
    return parse_settings(method, {**full_names(method, table), **flags})


def _run(known: Declared, given: dict[str, Any], values: dict[str, Any]) -> None:
    flags, rest = split_data_options(values)
    source, options, tables = read_task(rest["data"], flags)
    settings = _settings(known, tables.get(known.name, {}), given)
    out: Path = rest["out"]
    check_fresh(out)
    check_writable(out)
    asked = "default" if rest["budget"] is None else rest["budget"]
    parse_budget(asked, mean_row_tokens=1.0)
    check_dtype(rest["dtype"])
    begun: Path | None = rest["start"]
    if begun is not None:
        check_stored(begun)
    check_columns(source, options)
    # From here on torch is loaded.
    from tunewise.adaptation.checkpoint import clear_state
    from tunewise.adaptation.store import folder_bytes, load, save
    from tunewise.cli.progress import bars
    from tunewise.methods._registry import find_method
    from tunewise.model.ledger import UNIT
    from tunewise.steps import described, fit, measure, prepare, score_summary

    method = find_method(known.name)
    start = None if begun is None else load(begun)  # before the slow work; against the base below
    base = DEFAULT_BASE if rest["base"] is None else rest["base"]
    ground = prepare(source, options, base, rest["dtype"])
    if begun is not None:
        start = load(begun, base_fingerprint=ground.base.fingerprint)
    # An exact number of steps says itself what it costs.
    unlimited = getattr(settings, "steps", None) is not None and rest["budget"] is None
    limit = None if unlimited else parse_budget(asked, mean_row_tokens=ground.mean_row_tokens)
    partial = out.with_name(f"{out.name}.partial")
    with bars() as reporter:
        for warning in ground.check.warnings:
            reporter.say(f"mind: {warning}")
        reporter.begin(f"fitting {method.name}", 1, 1)
        fitted = fit(
            ground,
            method,
            settings,
            seed=rest["seed"],
            budget=limit,
            checkpoint=partial,
            start=start,
            report=reporter.work,
        )
        save(fitted.adaptation, out)
        clear_state(partial)
        reporter.begin(f"measuring {method.name}", 1, 1, unit="rows")
        rows = ground.task.fit_view.validation
        measured = measure(ground.base, fitted.adaptation, rows, reporter)
    validation = score_summary(measured, rows, ground.task.spec)
    content = {
        "adaptation": str(out),
        "budget": {"unit": UNIT, "per_method": limit},
        "validation": validation,
        "bytes_on_disk": folder_bytes(out),
        **described(fitted),
    }
    click.echo(json.dumps(content, ensure_ascii=False) if rest["as_json"] else _line(content))


def _line(content: Mapping[str, Any]) -> str:
    """A fit in one line."""
    validation = content["validation"]
    return (
        f"{content['method']} in {content['adaptation']}: {' + '.join(content['parts'])}, "
        f"{content['bytes_on_disk']:,} bytes; validation {validation['metric']} "
        f"{100 * validation['value']:.1f} ({100 * validation['low']:.1f} to "
        f"{100 * validation['high']:.1f}) on {validation['n']} rows"
    )

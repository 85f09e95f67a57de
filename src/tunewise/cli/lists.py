"""methods, questions, models: what there is."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from tunewise.cli.options import flag_name, json_option

if TYPE_CHECKING:
    from tunewise.methods._contract import Method


@click.command("methods", short_help="The methods there are, and their settings.")
@json_option
def methods_command(as_json: bool) -> None:
    """The methods that were found, what they produce and their settings."""
    from tunewise.cli.show import show_table
    from tunewise.methods._registry import discover_methods

    found = discover_methods()
    if as_json:
        content = [
            {
                "name": method.name,
                "summary": method.summary,
                "produces": list(method.produces),
                "needs": {
                    "gradients": method.needs.gradients,
                    "minimum_rows": method.needs.minimum_rows,
                    "kinds": sorted(method.needs.kinds),
                    "base": method.needs.base,
                },
                "settings": {
                    name: {"default": field.default, "description": field.description}
                    for name, field in method.Settings.model_fields.items()
                },
            }
            for method in found.values()
        ]
        click.echo(json.dumps(content))
        return
    rows = [[method.name, method.summary] for method in found.values()]
    below = [_method_lines(method) for method in found.values()]
    show_table(["method", "what it is"], rows, below)


def _method_lines(method: Method) -> list[str]:
    """What a method produces, and its flags; its own before those it shares with others."""
    own = [name for name in method.Settings.model_fields if name in method.Settings.__annotations__]
    shared = [name for name in method.Settings.model_fields if name not in own]
    flags = " ".join(flag_name(name) for name in (*own, *shared))
    lines = [f"produces {' + '.join(method.produces)}"]
    return [*lines, f"flags {flags}"] if flags else lines


@click.command("questions", short_help="The questions there are, and their settings.")
@json_option
def questions_command(as_json: bool) -> None:
    """What can be asked after a comparison, and the settings of each question."""
    from tunewise.cli.show import show_table
    from tunewise.measure.questions._registry import QUESTIONS

    found = QUESTIONS.discover()
    if as_json:
        content = [
            {
                "name": question.name,
                "title": question.title,
                "asks": question.asks,
                "settings": {
                    name: {"default": field.default, "description": field.description}
                    for name, field in question.Settings.model_fields.items()
                },
            }
            for question in found.values()
        ]
        click.echo(json.dumps(content))
        return
    rows = [[question.name, question.asks] for question in found.values()]
    below = [
        [f"settings {' '.join(question.Settings.model_fields)}"]
        if question.Settings.model_fields
        else []
        for question in found.values()
    ]
    show_table(["question", "what it asks"], rows, below)


@click.command("models")
@click.option("--fetch", metavar="NAME", help="fetch this model and check every byte of it")
@json_option
def models_command(fetch: str | None, as_json: bool) -> None:
    """Base models known by name or present in the cache."""
    from tunewise.cli.show import show_table
    from tunewise.model.listing import list_models

    if fetch is not None:
        from tunewise.model.resolve import fetch as fetch_model

        resolved = fetch_model(fetch)
        click.echo(f"{resolved.name} from {resolved.source}", err=as_json)
    models = list_models()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(model) for model in models]))
        return
    rows = [
        [
            model.name,
            "here" if model.cached else "not fetched",
            "" if model.bytes is None else f"{model.bytes / 1e6:,.0f} MB",
            (model.fingerprint or "")[:12],
            model.licence,
        ]
        for model in models
    ]
    below = [[model.path if model.cached else model.source] for model in models]
    show_table(["model", "state", "size", "fingerprint", "licence"], rows, below)

"""registry export, import: what goes out to other tools and what comes in from them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunewise.cli.export import exported_files
from tunewise.cli.options import base_option, dtype_option, json_option
from tunewise.cli.registry_place import opened, place_options, who
from tunewise.cli.registry_show import emit
from tunewise.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from tunewise.adaptation.bundle import Decoding
    from tunewise.adaptation.parts import Part
    from tunewise.serve.registry.registry import Registry
    from tunewise.task.types import TaskSpec


@click.command("export", short_help="Write a version for other tools, proven.")
@click.argument("reference")
@click.option("--as", "name", required=True, metavar="FORMAT", help="see `tunewise export --help`")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="new folder")
@place_options
@base_option
@json_option
def export_command(reference: str, name: str, out: Path, as_json: bool, **values: Any) -> None:
    """Write a version in a form that other tools take, proven on its stored probes."""
    with opened(values["place"], values["files"]) as registry:
        version = registry.version(reference)
        report = registry.probe_report(version)
        probes = [] if report is None else report["probes"]
        asked = tuple(each["input"] for each in probes)
        with registry.in_use(version, f"exporting, {who(values['actor'])}", 3600.0):
            folder = registry.folder(version)
            files = exported_files(folder, name, out, values["base"], asked)
    record = json.loads(files["export.json"])
    emit(
        as_json,
        {"version": str(version), "out": str(out), "files": sorted(files), "record": record},
        f"{version} as {name} in {out}: {', '.join(sorted(files))}",
    )


@click.command("import", short_help="Register what another tool made.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--like", help="a version, or a folder, whose task, readout and prompt to take over")
@click.option("--prompt", type=click.Path(path_type=Path), help="the prompt that stands before it")
@click.option("--kind", default=None, help="of task  [default: by the labels]")
@click.option("--labels", default=None, metavar="A,B", help="the answers there are")
@click.option("--instruction", default=None, help="what is asked, in words")
@click.option("--metric", default=None, help="how answers are scored  [default: by the kind]")
@click.option("--notes", default="", help="free text that is kept with the version")
@place_options
@base_option
@dtype_option
@json_option
def import_command(source: Path, name: str, as_json: bool, **values: Any) -> None:
    """Register what another tool made: a PEFT folder, a prompt, a merged checkpoint, a GGUF file.

    SOURCE is a folder with adapter_config.json or config.json, or a text, JSON or GGUF file.
    What it is for is told by --like, or by --labels and --instruction.
    """
    from tunewise.adaptation.foreign import adaptation_of, kind_of, parts_of
    from tunewise.adaptation.probes import hold_against_base
    from tunewise.adaptation.store import save
    from tunewise.serve.registry.names import parse_name
    from tunewise.serve.registry.publish import Registration

    parsed, actor, kind = parse_name(name), who(values["actor"]), kind_of(source)
    with opened(values["place"], values["files"]) as registry:
        spec, decoding, texts, base_name = _task(registry, values)
        base = _base(base_name if values["base"] is None else values["base"], values["dtype"])
        parts = parts_of(source, base, kind)
        if kind != "prompt":
            parts = (*texts, *parts)
        made = adaptation_of(parts, base, spec, decoding, kind)
        with tempfile.TemporaryDirectory() as where:
            save(made, Path(where) / "made")
            registration = Registration(
                parsed,
                actor,
                run=f"imported from {source.absolute()}",
                notes=values["notes"],
                check=lambda each: hold_against_base(base, each).as_dict(),
            )
            version = registry.add(Path(where) / "made", registration)
    emit(as_json, version.as_dict(), f"{version}  {version.digest}")


def _base(name: str | None, dtype: str) -> Any:
    from tunewise.config import DEFAULT_BASE
    from tunewise.model.base import load_base

    return load_base(DEFAULT_BASE if name is None else name, dtype=dtype)


def _task(
    registry: Registry, values: dict[str, Any]
) -> tuple[TaskSpec, Decoding, tuple[Part, ...], str | None]:
    """Task, readout, prompt and base of what is taken in.

    Raises:
        ConfigError: it is not said, or said twice.
    """
    from tunewise.adaptation.foreign import read_prompt
    from tunewise.adaptation.parts import PromptTextPart
    from tunewise.task.prompt import PromptText

    own = {key: values[key] for key in ("kind", "labels", "instruction", "metric")}
    given = [f"--{key}" for key, value in own.items() if value is not None]
    if (values["like"] is None) == (not given):
        raise ConfigError(
            "it is not clear what this is for",
            found=f"--like and {', '.join(given)}" if given else "neither --like nor a task",
            expected="--like, or --labels and --instruction",
            fix="--like tenant/name@1 takes task, readout and prompt over",
        )
    if values["like"] is None:
        spec, decoding = _spec(own)
        text, base_name = PromptTextPart(PromptText(spec.instruction)), None
    else:
        other = _like(registry, values["like"])
        part = other.part(PromptTextPart)
        spec, decoding = other.spec, other.decoding
        text = PromptTextPart(PromptText("")) if part is None else part
        base_name = other.provenance.base_name
    if values["prompt"] is not None:
        text = PromptTextPart(read_prompt(values["prompt"]))
    first = text.prompt
    empty = not (first.instruction or first.demonstrations or first.pool or text.others)
    return spec, decoding, () if empty else (text,), base_name


def _like(registry: Registry, given: str) -> Any:
    from tunewise.adaptation.store import load
    from tunewise.serve.registry.intake import adaptation_in

    if (Path(given) / "adaptation.json").is_file():
        return load(Path(given))
    version = registry.version(given)
    return adaptation_in(registry.folder(version), version.digest)


def _spec(own: dict[str, str | None]) -> tuple[TaskSpec, Decoding]:
    """A task in the words of the flags."""
    from tunewise.adaptation.bundle import Decoding
    from tunewise.adaptation.readout import MOST_SCORED_LABELS
    from tunewise.task.score import DEFAULT_METRIC, metric_for
    from tunewise.task.types import Kind, TaskSpec

    text = own["labels"]
    labels = () if text is None else tuple(each.strip() for each in text.split(",") if each.strip())
    if text is not None and (len(labels) < 2 or len(set(labels)) != len(labels)):
        raise ConfigError(
            "the labels cannot be used", found=repr(text), expected="two or more that differ"
        )
    asked = own["kind"]
    known = [str(each) for each in Kind]
    if asked is not None and asked not in known:
        raise UnknownNameError("kind of task", asked, known)
    kind = (
        Kind(asked) if asked is not None else (Kind.CLASSIFICATION if labels else Kind.SHORT_ANSWER)
    )
    if (kind in (Kind.CLASSIFICATION, Kind.MULTI_LABEL)) != bool(labels):
        raise ConfigError(
            "labels and kind of task do not fit each other",
            found=f"{kind} with {len(labels)} labels",
            expected="labels where answers are labels, and nowhere else",
        )
    asked_metric = own["metric"]
    metric = metric_for(DEFAULT_METRIC[kind] if asked_metric is None else asked_metric, kind).name
    instruction = own["instruction"]
    spec = TaskSpec(
        "imported", kind, "" if instruction is None else instruction, tuple(sorted(labels)), metric
    )
    if kind is Kind.CLASSIFICATION:
        return spec, Decoding("score" if len(labels) <= MOST_SCORED_LABELS else "trie")
    return spec, Decoding("json" if kind is Kind.JSON else "free", max_new_tokens=128)

"""`tunewise export ADAPTATION --as FORMAT --out FOLDER`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunewise.adaptation.folder import check_stored
from tunewise.cli.options import base_option, json_option
from tunewise.early import check_fresh
from tunewise.errors import ConfigError

if TYPE_CHECKING:
    from tunewise.adaptation.files import Files
    from tunewise.model.base import Base


class _Formats(click.Command):
    """Finds the formats when help is asked, so that other commands need not import them."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The formats, one a line."""
        from tunewise.adaptation.export._registry import FORMATS

        with formatter.section("Formats"):
            formatter.write_dl([(each.name, each.summary) for each in FORMATS.discover().values()])


@click.command("export", cls=_Formats, short_help="Write an ADAPTATION for other tools.")
@click.argument("adaptation", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="FORMAT", help="one of those below  [required]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="new folder")
@base_option
@json_option
def export_command(
    adaptation: Path, name: str | None, out: Path, base: str | None, as_json: bool
) -> None:
    """Write a stored ADAPTATION in a form that other tools take, or refuse with the reason.

    What is written is exactly what was measured: the same bytes before every input, or logits
    that PEFT computes too.
    """
    if name is None:
        from tunewise.adaptation.export._registry import FORMATS

        raise ConfigError(
            "no format is named",
            found="no --as",
            expected=f"one of {', '.join(FORMATS.discover())}",
            fix="tunewise export --help tells what they are",
        )
    check_stored(adaptation)
    files = exported_files(adaptation, name, out, base)
    if as_json:
        content = {"as": name, "out": str(out), "files": sorted(files)}
        click.echo(json.dumps(content | {"record": json.loads(files["export.json"])}))
        return
    click.echo(f"{name} in {out}: {', '.join(sorted(files))}")


def exported_files(
    adaptation: Path, name: str, out: Path, base: str | None, probes: tuple[str, ...] = ()
) -> Files:
    """Write an export into a new folder.

    Args:
        adaptation: folder of the adaptation.
        name: of the format.
        out: absent or empty.
        base: name of the base; None for the one it was made for.
        probes: inputs the export is tried on, beside those every export is tried on.

    Returns:
        What was written, by name.
    """
    from tunewise.adaptation.export._contract import Source
    from tunewise.adaptation.export._registry import FORMATS
    from tunewise.adaptation.folder import write_folder
    from tunewise.adaptation.predict import needs_base
    from tunewise.adaptation.store import load
    from tunewise.errors import AdaptationError
    from tunewise.model.base import load_base, load_tokenizer

    made = FORMATS.find(name)
    loaded = load(adaptation)
    check_fresh(out)
    if not needs_base(loaded):
        raise AdaptationError(
            f"this adaptation cannot be exported as {name}",
            found=f"parts {' + '.join(loaded.kinds)}, which never call a base model",
            expected="a prompt or parts of a base model",
            fix="its folder is safetensors and JSON as it lies there",
        )
    base_name = loaded.provenance.base_name if base is None else base
    tokenizer, fingerprint = load_tokenizer(base_name)
    load(adaptation, base_fingerprint=fingerprint, base_name=base_name)

    def base_in(dtype: str) -> Base:
        return load_base(base_name, dtype=dtype)

    files = made.files(Source(loaded, tokenizer, base_in, probes))
    write_folder(files, out)
    return files

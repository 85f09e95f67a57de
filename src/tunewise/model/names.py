"""What a base model can be called; told without loading anything."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tunewise.errors import ConfigError, UnknownNameError
from tunewise.model import cache
from tunewise.model.catalog import CATALOG

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_name(name: str) -> None:
    """Refuse what is no short name, no path where something lies and no hub id.

    Args:
        name: as typed behind --base.

    Raises:
        UnknownNameError: no such name; shows close ones.
        ConfigError: a path where nothing lies.
    """
    known = {*CATALOG, *cache.cached_names()}
    # An empty name would be the current folder.
    path = Path(name).expanduser()
    if name in known or (name.strip() and (path.is_dir() or path.is_file())):
        return
    if _looks_like_path(name):
        raise ConfigError(
            "there is no such model folder or file",
            found=str(path),
            expected="a folder with config.json and safetensors, or a GGUF file",
            fix="check the path, or see `tunewise models`",
        )
    if not _HUB_ID.fullmatch(name):
        here = ", ".join(cache.cached_names()) or "none yet"
        raise UnknownNameError(
            "base model",
            name,
            known,
            fix=f"In the cache: {here}. A hub id (organisation/name), a model folder or a GGUF "
            "file can be given too.",
        )


def _looks_like_path(name: str) -> bool:
    separators = {os.sep, "/"}
    return (
        name.startswith((".", "~", *separators))
        or name.endswith((*separators, ".gguf"))
        or name.count("/") > 1
    )

"""How kept prefixes are called, so that those of an adaptation are found without reading them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

FOLDER = "prefixes"
ENDING = ".prefix"


def owner(tenant: str, content_hash: str) -> str:
    """How the names of one adaptation's files begin."""
    return hashlib.sha256(json.dumps([tenant, content_hash]).encode()).hexdigest()[:32]


def forget(folder: Path, contents: Iterable[tuple[str, str]]) -> None:
    """Remove the prefixes of some adaptations, as far as they are there.

    Args:
        folder: of kept prefixes.
        contents: tenant and content hash of each.
    """
    for tenant, content_hash in contents:
        for path in folder.glob(f"{owner(tenant, content_hash)}-*{ENDING}"):
            # It is a cache: what cannot be removed now leaves by age.
            with contextlib.suppress(OSError):
                path.unlink()

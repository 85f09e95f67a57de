"""Where the files of adaptations lie: a folder on this machine, or any place fsspec reaches.

    objects/TENANT/CONTENT_HASH/...   the folder as `adaptation.store` wrote it, never changed
    incoming/...                      what is being registered, not yet checked

Each tenant has folders of its own, also where two tenants have the same content: nobody can learn
from a quick answer that another has it. Places that are not on this machine are read through a
folder here, which is filled as contents are asked for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunewise.adaptation.folder import check_name
from tunewise.errors import ConfigError, StorageError, UnavailableError

OBJECTS, INCOMING, REMOVED = "objects", "incoming", "removed"
MANIFEST = "adaptation.json"


@dataclass(frozen=True, slots=True)
class Held:
    """One folder of files that is there: whose, its content hash, when it was last written."""

    tenant: str
    digest: str
    modified_at: float


class Files(Protocol):
    """Folders of files by tenant and content hash."""

    @property
    def shown(self) -> str:
        """Where, for messages."""
        ...

    def incoming(self) -> Any:
        """A context with the path of a private folder, not yet made, gone when it ends."""
        ...

    def publish(self, tenant: str, digest: str, folder: Path) -> None:
        """Put a checked folder in its place; one that is there already is replaced.

        Raises:
            StorageError: the disk is full or refuses.
            UnavailableError: the place cannot be reached.
        """
        ...

    def folder(self, tenant: str, digest: str) -> Path:
        """The folder on this machine, fetched where it is elsewhere; absent where there is none.

        Raises:
            UnavailableError: the place cannot be reached.
        """
        ...

    def fresh(self, tenant: str, digest: str) -> Path:
        """As `folder`, but whatever was fetched before is fetched again."""
        ...

    def remove(self, tenant: str, digest: str) -> None:
        """Take the folder away; nothing happens where there is none."""
        ...

    def held(self) -> list[Held]:
        """Every folder that is there."""
        ...

    def sweep(self, before: float) -> int:
        """Remove what killed processes left of their work.

        Args:
            before: seconds since 1970; what was written later stays.

        Returns:
            How many folders.
        """
        ...


class LocalFiles:
    """Files in a folder on this machine.

    Args:
        root: the folder; made when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def shown(self) -> str:
        """See `Files.shown`."""
        return str(self._root)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """See `Files.incoming`."""
        folder = self._root / INCOMING / uuid.uuid4().hex
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, tenant: str, digest: str, folder: Path) -> None:
        """See `Files.publish`."""
        place = self.folder(tenant, digest)
        with _told(self.shown):
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                self._set_aside(place)
            try:
                folder.replace(place)
            except OSError as error:
                # Somebody else put the same content there at this very moment.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            _sync(place.parent)

    def folder(self, tenant: str, digest: str) -> Path:
        """See `Files.folder`."""
        return self._root / OBJECTS / tenant / digest

    def fresh(self, tenant: str, digest: str) -> Path:
        """See `Files.fresh`."""
        return self.folder(tenant, digest)

    def remove(self, tenant: str, digest: str) -> None:
        """See `Files.remove`."""
        place = self.folder(tenant, digest)
        with _told(self.shown):
            if place.exists():
                self._set_aside(place)

    def held(self) -> list[Held]:
        """See `Files.held`."""
        found = []
        for path in sorted((self._root / OBJECTS).glob("*/*")):
            with suppress(FileNotFoundError):
                found.append(Held(path.parent.name, path.name, path.stat().st_mtime))
        return found

    def sweep(self, before: float) -> int:
        """See `Files.sweep`."""
        count = 0
        for kind in (INCOMING, REMOVED):
            for path in sorted((self._root / kind).glob("*")):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime <= before:
                        shutil.rmtree(path, ignore_errors=True)
                        count += 1
        return count

    def _set_aside(self, place: Path) -> None:
        # Renamed first: a folder that is half removed never stands under its content hash.
        aside = self._root / REMOVED / uuid.uuid4().hex
        aside.parent.mkdir(parents=True, exist_ok=True)
        place.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)


class RemoteFiles:
    """Files in any place fsspec reaches, read through a folder on this machine.

    Args:
        url: fsspec's, for example "s3://bucket/registry".
        cache: the folder on this machine.

    Raises:
        ConfigError: no such kind of place, or its driver is not installed.
    """

    def __init__(self, url: str, cache: Path) -> None:
        import fsspec

        try:
            self._system, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                "this place for files cannot be used",
                found=f"{url}: {error}",
                expected="a folder, or a URL that fsspec knows, with its driver installed",
            ) from error
        self._url, self._root = url, root.rstrip("/")
        self._here = LocalFiles(cache / hashlib.sha256(url.encode()).hexdigest()[:16])

    @property
    def shown(self) -> str:
        """See `Files.shown`."""
        return self._url

    def incoming(self) -> Any:
        """See `Files.incoming`."""
        return self._here.incoming()

    def publish(self, tenant: str, digest: str, folder: Path) -> None:
        """See `Files.publish`."""
        place = self._place(tenant, digest)
        names = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        with self._reached():
            # The manifest goes last: without it a folder is none.
            for name in sorted(names, key=lambda name: name == MANIFEST):
                self._system.makedirs(f"{place}/{name}".rpartition("/")[0], exist_ok=True)
                self._system.pipe_file(f"{place}/{name}", (folder / name).read_bytes())
        self._here.publish(tenant, digest, folder)

    def folder(self, tenant: str, digest: str) -> Path:
        """See `Files.folder`."""
        here = self._here.folder(tenant, digest)
        return here if here.exists() else self.fresh(tenant, digest)

    def fresh(self, tenant: str, digest: str) -> Path:
        """See `Files.fresh`."""
        place = self._place(tenant, digest)
        with self._here.incoming() as fetched:
            with self._reached():
                names = self._system.find(place) if self._system.exists(place) else []
                for name in names:
                    inner = name[name.index(f"/{OBJECTS}/{tenant}/{digest}/") :].split("/", 4)[-1]
                    check_name(inner)
                    target = fetched / inner
                    with _told(self._here.shown):
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(self._system.cat_file(name))
            if names:
                self._here.publish(tenant, digest, fetched)
            else:
                self._here.remove(tenant, digest)
        return self._here.folder(tenant, digest)

    def remove(self, tenant: str, digest: str) -> None:
        """See `Files.remove`."""
        place = self._place(tenant, digest)
        with self._reached():
            if self._system.exists(f"{place}/{MANIFEST}"):
                self._system.rm(f"{place}/{MANIFEST}")
            if self._system.exists(place):
                self._system.rm(place, recursive=True)
        self._here.remove(tenant, digest)

    def held(self) -> list[Held]:
        """See `Files.held`."""
        newest: dict[tuple[str, str], float] = {}
        start = f"{self._root}/{OBJECTS}/"
        with self._reached():
            found = self._system.find(start, detail=True) if self._system.exists(start) else {}
        for path, facts in found.items():
            pieces = path[path.index(f"/{OBJECTS}/") + len(OBJECTS) + 2 :].split("/")
            if len(pieces) > 2:
                key, at = (pieces[0], pieces[1]), _time_of(facts)
                newest[key] = max(newest.get(key, at), at)
        return [Held(*key, at) for key, at in sorted(newest.items())]

    def sweep(self, before: float) -> int:
        """See `Files.sweep`."""
        return self._here.sweep(before)

    def _place(self, tenant: str, digest: str) -> str:
        return f"{self._root}/{OBJECTS}/{tenant}/{digest}"

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what a driver raises into the project's own error."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise UnavailableError(
                "the place of the registry's files does not answer as it should",
                found=f"{self._url}: {type(error).__name__}: {error}",
                expected="a place that can be read and written",
                fix="see that it can be reached and that the credentials are right; try again",
            ) from error


def files_at(url: str, cache: Path) -> Files:
    """The files at a folder or URL.

    Args:
        url: a path, "file://..." or any URL of fsspec.
        cache: folder for what is fetched from elsewhere.

    Raises:
        ConfigError: it cannot be used.
    """
    if "://" not in url:
        return LocalFiles(Path(url))
    if url.startswith(("file://", "local://")):
        return LocalFiles(Path(url.partition("://")[2]))
    return RemoteFiles(url, cache)


def _time_of(facts: dict[str, Any]) -> float:
    """When a file was last written, under whichever name the file system tells it."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = facts.get(key)
        if isinstance(value, int | float):
            return float(value)
        if value is not None and hasattr(value, "timestamp"):
            return float(value.timestamp())
    return time.time()  # not told: as if it were new, so that nothing is removed on a guess


@contextmanager
def _told(shown: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            "the registry's files cannot be written",
            found=f"{shown}: {error.strerror}",
            expected="a folder that can be written, with room",
            fix="free some space or change its permissions; nothing was registered",
        ) from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What is let into the registry: copied to a private place and checked byte by byte.

It is an adaptation, from its folder, or a recipe, from a task file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.folder import files_in, write_folder
from tunewise.adaptation.store import fingerprint_of_folder, load
from tunewise.errors import AdaptationError, CorruptAdaptationError
from tunewise.task.recipe import (
    RECIPE_FILE,
    Recipe,
    is_recipe,
    read_recipe,
    recipe_bytes,
    recipe_digest,
    stored_recipe,
)

KEPT = (".json", ".safetensors")
# Endings and first bytes of files that run code when Python or PyTorch reads them.
RUNS_CODE = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".npy", ".py")
PICKLE_STARTS = (*(b"\x80" + bytes([protocol]) for protocol in range(2, 6)), b"PK\x03\x04")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checked adaptation or recipe in a private folder.

    Attributes:
        content: as loaded.
        digest: its content hash.
        folder: where its files lie.
        bytes: of all files.
    """

    content: Adaptation | Recipe
    digest: str
    folder: Path
    bytes: int


def take_in(source: Path, private: Path, base_fingerprint: str | None = None) -> Candidate:
    """Copy a folder and check the copy, so that nothing can change between check and use.

    Args:
        source: a folder that `adaptation.store` wrote, or a task file that is a recipe.
        private: absent; nothing else writes there.
        base_fingerprint: of the base it must be for; None for any.

    Raises:
        AdaptationError: it holds no adaptation, or files that run code, or links.
        CorruptAdaptationError: a byte differs, a tensor has an unexpected name or shape, or a
            file is missing or was added.
        WrongBaseError: it is for another base.
        ConfigError: the task file is no recipe.
        StorageError: the disk is full or refuses.
    """
    if is_recipe(source):
        recipe = read_recipe(source)
        data = recipe_bytes(recipe)
        write_folder({RECIPE_FILE: data}, private)
        return Candidate(recipe, recipe_digest(data), private, len(data))
    if source.is_dir():
        _refuse_code(source)
        names = files_in(source)
        files = {name: _read(source / name) for name in names}
        if "adaptation.json" in files:
            write_folder(files, private)
            adaptation = load(private, base_fingerprint=base_fingerprint)
            total = sum(len(data) for data in files.values())
            return Candidate(adaptation, fingerprint_of_folder(private), private, total)
    load(source)  # raises: it tells what is there instead
    raise AdaptationError("no adaptation is stored there", found=str(source))


def adaptation_in(folder: Path, digest: str) -> Adaptation:
    """As `check_folder`, where an adaptation is needed.

    Raises:
        AdaptationError: it is a recipe.
    """
    found = check_folder(folder, digest)
    if isinstance(found, Recipe):
        raise AdaptationError(
            "this is a recipe, and no adaptation",
            expected="what a fit has found",
            fix="`tunewise registry recipe` prints it; fit by it with `tunewise fit --task FILE`",
        )
    return found


def check_folder(folder: Path, digest: str) -> Adaptation | Recipe:
    """Load what is stored under a content hash, every byte checked.

    Raises:
        CorruptAdaptationError: it is not there, or not what the hash says.
    """
    if not folder.is_dir():
        raise CorruptAdaptationError(
            "the files of a registered adaptation are missing",
            found=str(folder),
            expected="the folder as it was registered",
            fix="register the same adaptation again: that puts its files back",
        )
    content: Adaptation | Recipe
    if files_in(folder) == [RECIPE_FILE]:
        data = _read(folder / RECIPE_FILE)
        content, found = stored_recipe(data), recipe_digest(data)
    else:
        content, found = load(folder), fingerprint_of_folder(folder)
    if found != digest:
        raise CorruptAdaptationError(
            "the files of a registered adaptation are those of another",
            found=f"{folder}: {found}",
            expected=digest,
            fix="register the same adaptation again: that puts its files back",
        )
    return content


def _refuse_code(source: Path) -> None:
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise AdaptationError(
                "the folder holds a link or a device",
                found=name,
                expected="plain files and folders",
                fix="copy the files themselves",
            )
        if path.is_dir():
            continue
        with path.open("rb") as file:
            start = file.read(4)
        # The length at the start of a safetensors file may look like the start of a pickle.
        pickled = start.startswith(PICKLE_STARTS) and path.suffix not in KEPT
        if pickled or path.suffix.lower() in RUNS_CODE:
            raise AdaptationError(
                "the folder holds a file that could run code when it is read",
                found=name,
                expected=f"{' and '.join(KEPT)} files only",
                fix="save tensors as safetensors; do not open this file if you do not know it",
            )
        if path.suffix not in KEPT and not any(part.startswith(".") for part in Path(name).parts):
            raise AdaptationError(
                "the folder holds a file of an unknown kind",
                found=name,
                expected=f"{' and '.join(KEPT)} files only",
                fix="remove it from the folder",
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AdaptationError(
            "a file of the adaptation cannot be read", found=f"{path}: {error.strerror}"
        ) from error

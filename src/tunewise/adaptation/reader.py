"""Adaptations read from their folders at most once, for whoever asks for each again and again."""

from __future__ import annotations

from pathlib import Path

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import WeightsPart
from tunewise.adaptation.store import load


class Reader:
    """Keeps the adaptations that were read.

    Of those that hold whole weights, each as large as the base, only the last one stays.
    """

    def __init__(self) -> None:
        self._light: dict[Path, Adaptation] = {}
        self._heavy: tuple[Path, Adaptation] | None = None

    def load(self, folder: Path, fingerprint: str) -> Adaptation:
        """The adaptation of a folder, read and checked at most once while it stays.

        Args:
            folder: of a stored adaptation.
            fingerprint: of the base that it must have been made for.

        Raises:
            AdaptationError: it cannot be read, or is of another base.
        """
        if folder in self._light:
            return self._light[folder]
        if self._heavy is not None and self._heavy[0] == folder:
            return self._heavy[1]
        self._heavy = None  # let go before the next one is read
        found = load(folder, base_fingerprint=fingerprint)
        if found.part(WeightsPart) is None:
            self._light[folder] = found
        else:
            self._heavy = (folder, found)
        return found

"""What an export format is: a name, a summary and the files it makes of an adaptation.

A format either gives exactly what was measured or refuses with the reason. Prompts that were
extracted and rendered again by other rules have scored far below the prompt that was searched
(stanfordnlp/dspy#8042).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.files import Files
from tunewise.model.base import Base


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported.

    Attributes:
        adaptation: the adaptation.
        tokenizer: of its base.
        load_base: loads that base in a dtype, for formats that prove numbers; slow.
        probes: inputs the export is tried on, beside those every export is tried on.
    """

    adaptation: Adaptation
    tokenizer: Any
    load_base: Callable[[str], Base]
    probes: tuple[str, ...] = ()


@runtime_checkable
class ExportFormat(Protocol):
    """The contract itself.

    Attributes:
        name: what `--as` is given, also the file's name.
        summary: one line for the help.
    """

    name: str
    summary: str

    def files(self, source: Source) -> Files:
        """The files of the export, by name.

        Args:
            source: what is exported.

        Raises:
            AdaptationError: this format cannot hold exactly what was measured.
            UnavailableError: a package that it needs is not installed.
        """
        ...

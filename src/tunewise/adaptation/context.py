"""What a fit is given, and how it wraps what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import Part, PromptTextPart
from tunewise.adaptation.store import fingerprint_of, installed_versions
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.task.prompt import PromptText
from tunewise.task.types import FitView


@dataclass(frozen=True, slots=True)
class FitContext:
    """Everything a fit is given beside its settings.

    Attributes:
        base: the base model; frozen, and unchanged after the fit.
        view: the task with its training and validation rows; no test rows.
        ledger: counts the work and enforces the budget.
        seed: of everything random in the fit.
        start: the adaptation to start from (step 0 equals it), or None.
        log: steps, losses and progress; what `fit --json` and the report show.
        data_hash: hash of the view.
        checkpoint_folder: where the state of an interrupted fit is kept, or None; whoever gives it
            clears it once what was found is stored.
        identity: of the fit: method, settings, start and budget. A stored state of another is not
            gone on from.
    """

    base: Base
    view: FitView
    ledger: Ledger
    seed: int
    log: FitLog
    data_hash: str
    start: Adaptation | None = None
    checkpoint_folder: Path | None = None
    identity: str = ""

    def finish(
        self,
        method: str,
        settings: BaseModel,
        parts: tuple[Part, ...],
        decoding: Decoding,
        **notes: Any,
    ) -> Adaptation:
        """Wrap what was found, with its provenance.

        Args:
            method: the method's name.
            settings: as used.
            parts: what was found.
            decoding: how answers are read out.
            notes: what is worth telling (JSON values; no clock times, so that bytes repeat).
        """
        provenance = Provenance(
            method=method,
            settings=settings.model_dump(mode="json"),
            seed=self.seed,
            base_name=self.base.name,
            base_fingerprint=self.base.fingerprint,
            dtype=self.base.dtype_name,
            data_hash=self.data_hash,
            work=self.ledger.work().as_dict(),
            versions=installed_versions(),
            start=None if self.start is None else fingerprint_of(self.start),
            notes=self._start_notes() | notes,
        )
        return Adaptation(parts, decoding, self.view.spec, provenance)

    def starting_prompt(self) -> PromptText:
        """The text prompt to begin with: that of `start`, else the task's plain instruction.

        Of a start with several prompts it is the first.
        """
        part = None if self.start is None else self.start.part(PromptTextPart)
        return PromptText(self.view.spec.instruction) if part is None else part.prompt

    def starting_decoding(self) -> Decoding | None:
        """The readout of `start`; None without one, and where it is that of several prompts."""
        if self.start is None or len(self.start.prompts) > 1:
            return None
        return self.start.decoding

    def starting_parts(self) -> tuple[Part, ...]:
        """The parts of `start`, a text prompt always among them."""
        given = () if self.start is None else self.start.parts
        others = tuple(part for part in given if not isinstance(part, PromptTextPart))
        return (PromptTextPart(self.starting_prompt()), *others)

    def _start_notes(self) -> dict[str, Any]:
        count = 1 if self.start is None else len(self.start.prompts)
        return {} if count == 1 else {"began_behind": f"the first of the start's {count} prompts"}

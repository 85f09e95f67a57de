"""What a method is: a name, what it produces and needs, its settings, and one `fit`.

A method is one file in this folder (or an entry point of the group `tunewise.methods`) with a
module-level `METHOD`. The loop, the renderer, the ledger and the maths live elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from tunewise.adaptation.bundle import Adaptation, Decoding, Provenance
from tunewise.adaptation.parts import Part
from tunewise.adaptation.store import fingerprint_of, library_versions
from tunewise.model.base import Base
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.task.types import FitView, Kind

ALL_KINDS = frozenset(Kind)


class MethodSettings(BaseModel):
    """Base class of a method's settings: frozen, and a field that is not known is refused.

    Every field has a `description` of one line that names its unit: the command-line help and the
    documentation are made from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be there before a method can run.

    Attributes:
        gradients: whether it trains by gradient.
        minimum_rows: training rows below which it is refused.
        kinds: kinds of task it can do.
        base: whether it calls the base model at all.
    """

    gradients: bool = False
    minimum_rows: int = 1
    kinds: frozenset[Kind] = ALL_KINDS
    base: bool = True


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
        checkpoint_folder: where the state of an interrupted fit is kept, or None.
    """

    base: Base
    view: FitView
    ledger: Ledger
    seed: int
    log: FitLog
    data_hash: str
    start: Adaptation | None = None
    checkpoint_folder: Path | None = None

    def finish(
        self,
        method: str,
        settings: MethodSettings,
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
            versions=library_versions(),
            start=None if self.start is None else fingerprint_of(self.start),
            notes=notes,
        )
        return Adaptation(parts, decoding, self.view.spec, provenance)


@runtime_checkable
class Method(Protocol):
    """The contract itself.

    Attributes:
        name: the field's own term, also the file's name.
        summary: one line for `tunewise methods`.
        produces: kinds of part in what it finds, at most these.
        needs: what must be there.
        Settings: its settings class.
    """

    name: str
    summary: str
    produces: tuple[str, ...]
    needs: Needs
    Settings: type[MethodSettings]

    def fit(self, context: FitContext, settings: Any) -> Adaptation:
        """Find an adaptation.

        Args:
            context: base, rows, ledger, seed, start.
            settings: an instance of `Settings`.

        Returns:
            The adaptation, made with `context.finish`.

        Raises:
            BudgetTooSmallError: the ledger does not cover one step.
        """
        ...

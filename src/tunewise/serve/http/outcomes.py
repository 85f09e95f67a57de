"""Which answers an outcome may still come for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from tunewise.errors import UnknownNameError
from tunewise.serve.http.models import Model


@dataclass(slots=True)
class Answered:
    """An answer that an outcome may still come for.

    Attributes:
        model: what answered.
        told: whether an outcome came.
    """

    model: Model
    told: bool = False


class Answers:
    """The last answers, shared fairly: who gave many forgets its own, not those of others.

    Args:
        most: answers that are remembered, of all tenants together.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._of: dict[str, OrderedDict[str, Answered]] = {}

    def put(self, request: str, tenant: str, model: Model) -> None:
        """Remember an answer, and forget the oldest of whoever has most where there are too many.

        Args:
            request: the answer's id.
            tenant: who asked.
            model: what answered.
        """
        self._of.setdefault(tenant, OrderedDict())[request] = Answered(model)
        self._held += 1
        if self._held > self._most:
            self._held -= 1
            name, largest = max(self._of.items(), key=lambda each: len(each[1]))
            largest.popitem(last=False)
            if not largest:
                del self._of[name]

    def take(self, request: str, tenant: str) -> Answered:
        """The answer that an outcome comes for; each takes one, so it is marked as told.

        Args:
            request: the answer's id.
            tenant: who tells.

        Raises:
            UnknownNameError: no such answer is remembered for this tenant, or its outcome was told
                before.
        """
        own = self._of.get(tenant)
        held = None if own is None else own.get(request)
        if held is None:
            raise UnknownNameError("answer", request[:64], (), fix="use the id of a recent answer")
        if held.told:
            raise UnknownNameError("answer without an outcome", request[:64], ())
        held.told = True
        return held

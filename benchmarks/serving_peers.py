"""What one would run instead of the engine: transformers, and PEFT on top of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunewise.adaptation import store
from tunewise.adaptation.attach import attached, lower_parts
from tunewise.adaptation.bundle import Adaptation
from tunewise.adaptation.parts import PromptTextPart
from tunewise.model.base import Base
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer


@dataclass(slots=True)
class Peers:
    """The peers, on a model of their own.

    Attributes:
        base: the base, on which nobody else works.
        new_tokens: of every answer.
    """

    base: Base
    new_tokens: int
    _mixed: Any = field(default=None, init=False)

    def generate(self, rows: Sequence[Sequence[int]]) -> int:
        """transformers' generate on one padded batch; tokens made."""
        self._generate(self.base.model, rows)
        return len(rows) * self.new_tokens

    def attach_each(self, work: Sequence[tuple[Adaptation, str]]) -> int:
        """PEFT's layers put in for a request and taken out after it, one request after another."""
        for adaptation, text in work:
            part = adaptation.part(PromptTextPart)
            prompt = PromptText("") if part is None else part.prompt
            renderer = Renderer(self.base.tokenizer, adaptation.spec, prompt)
            with attached(self.base, adaptation.parts), torch.no_grad():
                row = renderer.row_tokens(text)
                if adaptation.kinds in {("prompt_text",), ("prompt_text", "low_rank")}:
                    self._generate(self.base.model, [renderer.shared_tokens + row])
                    continue
                prefix = lower_parts(self.base, renderer, adaptation.parts)
                # generate takes what stands before as a cache, and tokens for all of it.
                ahead = [0] * prefix.length
                self._generate(self.base.model, [[*ahead, *row]], cache=prefix.cache(1))
        return len(work) * self.new_tokens

    def mixed(self, adaptations: Sequence[Adaptation], texts: Sequence[str]) -> int:
        """PEFT's own mixed batch: every row with the name of its LoRA."""
        model = self._with_all(adaptations)
        rows, names = [], []
        for number, text in enumerate(texts):
            adaptation = adaptations[number % len(adaptations)]
            part = adaptation.part(PromptTextPart)
            prompt = PromptText("") if part is None else part.prompt
            renderer = Renderer(self.base.tokenizer, adaptation.spec, prompt)
            rows.append(renderer.shared_tokens + renderer.row_tokens(text))
            names.append(f"a{number % len(adaptations)}")
        self._generate(model, rows, adapter_names=names)
        return len(rows) * self.new_tokens

    def _with_all(self, adaptations: Sequence[Adaptation]) -> Any:
        from peft import PeftModel

        if self._mixed is None:
            with tempfile.TemporaryDirectory() as folder:
                for number, adaptation in enumerate(adaptations):
                    where = Path(folder) / f"a{number}"
                    store.save(adaptation, where)
                    if number == 0:
                        self._mixed = PeftModel.from_pretrained(
                            self.base.model, where, adapter_name="a0"
                        )
                    else:
                        self._mixed.load_adapter(where, adapter_name=f"a{number}")
            self._mixed.to(self.base.dtype).eval()
        return self._mixed

    def _generate(
        self,
        model: Any,
        rows: Sequence[Sequence[int]],
        cache: Any = None,
        **more: Any,
    ) -> None:
        longest = max(len(row) for row in rows)
        pads = [longest - len(row) for row in rows]
        ids = torch.tensor([[0] * pad + list(row) for pad, row in zip(pads, rows, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
        if cache is not None:
            more["past_key_values"] = cache
        with torch.no_grad():
            model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.new_tokens,
                min_new_tokens=self.new_tokens,
                do_sample=False,
                pad_token_id=0,
                **more,
            )

"""The one renderer: fitting, measuring and serving turn a row into the same tokens here.

    shared text | row text (nearest demonstrations, the row, what opens the answer) | answer, end

Pieces are tokenised one by one and joined, so the shared part of every row is the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewise.task.layout import (
    ANSWER,
    INPUT,
    INSTRUCTION,
    Layout,
    Slot,
    chat_layout,
    plain_layout,
)
from tunewise.task.nearest import NearestDemonstrations
from tunewise.task.prompt import Demonstration, PromptText
from tunewise.task.tokens import PieceTokenizer
from tunewise.task.types import Row, TaskSpec

ANSWER_MARKS = ("⟦", "⟧")
# A model without a chat template likes to go on with an example of its own.
NEXT_EXAMPLE = "\n\nInput:"


class Renderer:
    """Turns rows and answers into text and tokens for one prompt and one tokenizer.

    Texts are stripped before they are placed. Text that looks like control tokens inside rows,
    answers, demonstrations or the instruction is tokenised as plain text.

    Args:
        tokenizer: a Hugging Face tokenizer, with or without a chat template.
        spec: what is asked; its labels give `label_tokens`.
        prompt: instruction and demonstrations.

    Attributes:
        shared_text: what stands before every row; may be empty.
        shared_tokens: its tokens, behind the tokenizer's own begin-of-text token if it has one.
        end_token_id: the token that ends an answer.
        closing_text: what a chat template writes after that token; never given to the model.

    Raises:
        ConfigError: the tokenizer's chat template cannot be used.
    """

    def __init__(self, tokenizer: Any, spec: TaskSpec, prompt: PromptText) -> None:
        self.spec, self.prompt = spec, prompt
        self._pieces = PieceTokenizer(tokenizer)
        self._chat = bool(getattr(tokenizer, "chat_template", None))
        self._layouts: dict[int, Layout] = {}
        self._nearest = NearestDemonstrations(prompt.pool) if prompt.nearest else None
        layout = self._layout(min(prompt.nearest, len(prompt.pool)))
        fallback = self._pieces.fallback_end
        self._end_text = layout.end_text or fallback.text
        end_tokens = self._pieces.fixed(layout.end_text) or (fallback.token,)
        self._end_tokens = end_tokens
        self.end_token_id: int = end_tokens[-1]
        self.closing_text = layout.closing_text
        shared = self._fill(self._shared_pieces(layout), ())
        self.shared_text = "".join(text for text, _ in shared)
        self.begin_text = self._pieces.begin_text(self.shared_text)
        begin = self._pieces.fixed(self.begin_text)
        self.shared_tokens: tuple[int, ...] = begin + self._tokens(shared)

    def row_text(self, text: str) -> str:
        """What stands between the shared text and the answer.

        Args:
            text: the row's input.
        """
        return "".join(piece for piece, _ in self._row(text))

    def row_tokens(self, text: str) -> tuple[int, ...]:
        """Tokens of `row_text`.

        Args:
            text: the row's input.
        """
        return self._tokens(self._row(text))

    def messages(self, text: str) -> list[dict[str, str]]:
        """The chat messages before the answer, as the chat template is given them.

        Args:
            text: the row's input.

        Returns:
            Role and content of each; none where the base has no chat template.
        """
        own = self._own(text)
        layout = self._layout(len(own) - 1)
        return [
            {"role": role, "content": "".join(piece for piece, _ in self._fill(content, own))}
            for role, content in layout.messages
        ]

    def answer_text(self, answer: str) -> str:
        """The answer as it stands in the text, with the text of the token that ends it."""
        return f"{self._lead()}{answer.strip()}{self._end_text}"

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The answer's tokens and the one that ends it."""
        return self._pieces.plain(f"{self._lead()}{answer.strip()}") + self._end_tokens

    def label_tokens(self) -> tuple[tuple[int, ...], ...]:
        """`answer_tokens` of every label of the task, in the order of the labels."""
        return tuple(self.answer_tokens(label) for label in self.spec.labels)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens up to the one that ends the answer, stripped."""
        kept = list(tokens)
        if self.end_token_id in kept:
            kept = kept[: kept.index(self.end_token_id)]
        text = self._pieces.decode(kept)
        if not self._chat:
            text = text.split(NEXT_EXAMPLE)[0]
        return text.strip()

    @property
    def cut_marks(self) -> tuple[str, ...]:
        """Texts before the first of which `decode` ends an answer."""
        return () if self._chat else (NEXT_EXAMPLE,)

    def full_text(self, row: Row) -> str:
        """Shared text, row and answer in one."""
        return self.shared_text + self.row_text(row.input) + self.answer_text(row.output)

    def marked_text(self, row: Row) -> str:
        """`full_text` behind the begin-of-text token, with the answer between ⟦ and ⟧."""
        opening, closing = ANSWER_MARKS
        answer = self.answer_text(row.output)
        return (
            f"{self.begin_text}{self.shared_text}{self.row_text(row.input)}"
            f"{opening}{answer}{closing}"
        )

    def _layout(self, nearest: int) -> Layout:
        if nearest not in self._layouts:
            turns = len(self.prompt.demonstrations) + nearest
            instructed = bool(self.prompt.instruction.strip())
            self._layouts[nearest] = (
                chat_layout(
                    self._pieces.tokenizer,
                    instructed=instructed,
                    turns=turns,
                    slot=self.prompt.slot,
                )
                if self._chat
                else plain_layout(instructed=instructed, turns=turns)
            )
        return self._layouts[nearest]

    def _lead(self) -> str:
        return "" if self._chat else " "

    def _first_own(self, layout: Layout) -> int:
        """Where the first piece stands that differs from row to row."""
        shown = len(self.prompt.demonstrations)
        return layout.pieces.index(Slot(INPUT, shown, self._lead()))

    def _shared_pieces(self, layout: Layout) -> tuple[str | Slot, ...]:
        return layout.pieces[: self._first_own(layout)]

    def _own(self, text: str) -> tuple[Demonstration, ...]:
        """What is the row's own: its nearest demonstrations, then the row."""
        near: tuple[Demonstration, ...] = ()
        if self._nearest is not None:
            near = self._nearest.find(text, self.prompt.nearest)
        return (*near, Demonstration(text, ""))

    def _row(self, text: str) -> list[tuple[str, bool]]:
        own = self._own(text)
        layout = self._layout(len(own) - 1)
        return self._fill(layout.pieces[self._first_own(layout) : -1], own)

    def _fill(
        self, pieces: Sequence[str | Slot], own: Sequence[Demonstration]
    ) -> list[tuple[str, bool]]:
        """Put the texts into the slots; the flag tells the template's own text."""
        turns = (*self.prompt.demonstrations, *own)
        filled: list[tuple[str, bool]] = []
        for piece in pieces:
            if isinstance(piece, str):
                filled.append((piece, True))
                continue
            texts = {
                INSTRUCTION: lambda turn: self.prompt.instruction,
                INPUT: lambda turn: turns[turn].input,
                ANSWER: lambda turn: turns[turn].output,
            }
            filled.append((piece.lead + texts[piece.role](piece.turn).strip(), False))
        return filled

    def _tokens(self, pieces: Sequence[tuple[str, bool]]) -> tuple[int, ...]:
        tokens: list[int] = []
        for text, fixed in pieces:
            tokens += self._pieces.fixed(text) if fixed else self._pieces.plain(text)
        return tuple(tokens)

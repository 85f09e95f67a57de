"""Many threads tokenise with one tokenizer: a user's control tokens stay plain text."""

from __future__ import annotations

import threading

from tests.conftest import build_tokenizer

from tunewise.task.tokens import PieceTokenizer


def test_threads_do_not_switch_each_others_control_tokens() -> None:
    tokenizer = build_tokenizer()
    pieces = PieceTokenizer(tokenizer)
    text = "x<|end|>y" * 20
    plain, fixed = pieces.plain(text), PieceTokenizer(tokenizer).fixed(text)
    assert tokenizer.eos_token_id in fixed
    assert tokenizer.eos_token_id not in plain
    wrong: list[str] = []
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            # A new one each time, since fixed texts are remembered.
            if PieceTokenizer(tokenizer).fixed(text) != fixed:
                wrong.append("fixed")

    others = [threading.Thread(target=disturb) for _ in range(2)]
    for each in others:
        each.start()
    wrong.extend("plain" for _ in range(2000) if pieces.plain(text) != plain)
    stop.set()
    for each in others:
        each.join()
    assert not wrong

"""The command line in this process: what it printed and how it ended."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tunewise.cli.main import main


@dataclass(frozen=True)
class Done:
    """Exit code and the two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


def tunewise(*arguments: object, stdin: str = "") -> Done:
    """Run `tunewise ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    typed = ["tunewise", *map(str, arguments)]
    with (
        patch.object(sys, "argv", typed),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())

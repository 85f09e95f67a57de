"""Structured logs: one JSON object a line. No key is ever in them, no text unless asked for."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

from tunewise.errors import TunewiseError

log = logging.getLogger("tunewise.serve")
OWN = ("tunewise", "uvicorn")
FRAMES = 8


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message and the fields that came along."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = record.getMessage()
        if not record.name.startswith(OWN):
            # Behind the first line a foreign message may show what it choked on.
            message = message.partition("\n")[0]
        content: dict[str, Any] = {
            "time": moment,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            content |= fault_fields(record.exc_info[1])
        return json.dumps(content, ensure_ascii=True, default=str)


def fault_fields(error: BaseException) -> dict[str, Any]:
    """What a log may tell of an exception: its kind and where it was raised.

    The message of a foreign exception may quote what it choked on, which may be somebody's prompt;
    ours quote values of the server itself.
    """
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    fields: dict[str, Any] = {
        "error": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, TunewiseError):
        fields |= {name: text for name, text in error.as_dict().items() if text}
    return fields


def handlers_to(stream: Any) -> None:
    """Send the server's and uvicorn's logs to a stream, and what others warn of, as JSON lines.

    Args:
        stream: a text stream.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name in ("tunewise.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(logging.INFO)
    others = logging.getLogger()
    others.handlers = [handler]
    others.setLevel(logging.WARNING)
    # Its lines hold addresses with whatever stood in their query.
    logging.getLogger("uvicorn.access").disabled = True

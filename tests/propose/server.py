"""A scripted OpenAI-compatible endpoint on the loopback interface: it answers, and it remembers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Scripted:
    """What a server was asked, and where it is."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def proposer(self) -> str:
        """As the setting takes it."""
        return f"{self.url}#scripted"

    @property
    def read(self) -> str:
        """Everything that was ever sent."""
        return json.dumps(self.requests, ensure_ascii=False)


@contextmanager
def scripted(answer: Callable[[int, str], str | None], status: int = 200) -> Iterator[Scripted]:
    """A server that gives `answer(n, question)` to the n-th question, while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            held.requests.append(body)
            question = "\n".join(each["content"] for each in body["messages"])
            content = answer(len(held.requests) - 1, question)
            message = {"role": "assistant", "content": content}
            made = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
            }
            data = json.dumps(made if status == 200 else {"error": {"message": "no"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held = Scripted(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

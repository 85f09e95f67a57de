"""A small server that answers as vLLM's does, computing with a tiny base; and fails on request.

It knows the fields of vLLM's completions and no others, so a field that is misspelt is refused. A
token is computed from the whole text before it every time.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load_file
from tests.serve.vllm.sampler import draw, merged, told

from tunewise.model.base import Base

KNOWN = {
    "model", "prompt", "prompt_embeds", "max_tokens", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "n", "seed", "stream",
    "stream_options", "logprobs", "logprob_token_ids", "allowed_token_ids", "logit_bias",
    "stop_token_ids", "ignore_eos", "add_special_tokens", "skip_special_tokens",
    "return_token_ids", "return_tokens_as_token_ids", "cache_salt",
}  # fmt: skip
BLOCK = 4
TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


class RefusedError(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeVllm:
    """The server, while the context lasts.

    Args:
        base: computes; nobody else may attach to it.
        key: that it asks for, or None.
        asked_ids: whether it knows `logprob_token_ids`.
        embeds: whether it takes embeddings.
        loras: whether LoRAs may be loaded.

    Attributes:
        fault: what goes wrong from now on; "" for nothing.
        gate: while it is not set, no token is computed.
        asked: every body of a completion.
        loras: name -> the model with that LoRA.
        names: every name that a LoRA was ever loaded under.
        broken_off: streams whose reader went away.
        named: requests that run now and name the tokens whose log-probabilities they want.
    """

    def __init__(
        self,
        base: Base,
        *,
        key: str | None = None,
        asked_ids: bool = True,
        embeds: bool = True,
        loras: bool = True,
        max_model_len: int = 512,
    ) -> None:
        self.base, self.key, self.asked_ids, self.embeds = base, key, asked_ids, embeds
        self.takes_loras, self.max_model_len = loras, max_model_len
        self.fault, self.gone = "", False
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[dict[str, Any]] = []
        self.loras: dict[str, Any] = {}
        self.names: list[str] = []
        self.broken_off = self.named = 0
        self._seen: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()
        fake = self

        class Handler(_Handler):
            server_of = fake

        self._http = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Be gone, also for those who are connected."""
        self.gone = True
        self.gate.set()
        self._http.shutdown()
        self._http.server_close()

    def load(self, name: str, folder: str) -> None:
        """As vLLM reads a PEFT folder: one rank, one alpha, nothing but A and B."""
        if not self.takes_loras:
            raise RefusedError(404, "Not Found")
        if name in self.names:
            raise RefusedError(400, f"The lora adapter '{name}' has already been loaded.")
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
        if config["r"] > 64:
            raise RefusedError(500, f"LoRA rank {config['r']} is greater than max_lora_rank 64.")
        if config.get("use_dora") or config.get("rank_pattern") or config.get("alpha_pattern"):
            raise RefusedError(500, "vLLM does not read these settings")
        for tensor in tensors:
            if tensor.split(".")[-3] not in TARGETS:
                raise RefusedError(500, f"unexpected modules in {tensor}")
        self.loras[name] = merged(self.base.model, config, tensors)
        self.names.append(name)

    def unload(self, name: str) -> None:
        """Forget it."""
        if self.loras.pop(name, None) is None:
            raise RefusedError(404, f"The lora adapter '{name}' cannot be found.")

    def check(self, body: dict[str, Any]) -> None:
        """Refuse what vLLM would."""
        unknown = body.keys() - KNOWN
        if unknown:
            raise RefusedError(400, f"unknown fields {sorted(unknown)}")
        if body["model"] != "base" and body["model"] not in self.loras:
            raise RefusedError(404, f"The model `{body['model']}` does not exist.")
        ids = body.get("logprob_token_ids")
        if ids is not None and (not 0 < len(ids) <= 128 or body.get("logprobs") is None):
            raise RefusedError(400, "logprob_token_ids")
        if any(not 0 <= each < self.base.vocabulary for each in ids or ()):
            raise RefusedError(400, "logprob_token_ids contain out-of-vocab token ids")
        if body.get("logprobs", 0) > 20:
            raise RefusedError(400, "logprobs is greater than max allowed: 20")
        if max(len(body.get(name, ())) for name in ("allowed_token_ids", "logit_bias")) > 1024:
            raise RefusedError(400, "too many ids")
        if "prompt_embeds" in body:
            if not self.embeds:
                raise RefusedError(400, "You must set `--enable-prompt-embeds` to input them.")
            if "prompt" in body:
                raise RefusedError(400, "one prompt at a time")
        elif not body["prompt"] or max(body["prompt"]) >= self.base.vocabulary:
            raise RefusedError(400, "Token id is out of vocabulary")

    def inputs(self, body: dict[str, Any]) -> torch.Tensor:
        """(T, D) of the prompt."""
        if "prompt_embeds" in body:
            data = io.BytesIO(base64.b64decode(body["prompt_embeds"]))
            found: torch.Tensor = torch.load(data, weights_only=True)
            if found.ndim != 2 or found.shape[1] != self.base.width:
                raise RefusedError(400, "embeddings of another width")
        else:
            found = self.embedded(body["prompt"])
        if len(found) + body["max_tokens"] > self.max_model_len:
            raise RefusedError(400, f"This model's maximum context length is {self.max_model_len}")
        return found

    def embedded(self, tokens: list[int]) -> torch.Tensor:
        """(T, D) of tokens."""
        with torch.no_grad():
            return self.base.model.get_input_embeddings()(torch.tensor(tokens))

    def logits(self, model: str, inputs: torch.Tensor) -> torch.Tensor:
        """(V,) behind the last position."""
        self.gate.wait(60)
        with torch.no_grad():
            chosen = self.loras.get(model, self.base.model)
            return chosen(inputs_embeds=inputs[None]).logits[0, -1].float()

    def cached(self, body: dict[str, Any], positions: int) -> int:
        """Positions that were computed before, for the same model and salt: whole blocks of them.

        The last position is always computed.
        """
        prompt = body.get("prompt") or body["prompt_embeds"]
        key = (body["model"], body.get("cache_salt"), json.dumps(prompt))
        with self._lock:
            before, _ = key in self._seen, self._seen.add(key)
        return (positions - 1) // BLOCK * BLOCK if before else 0

    def naming(self, body: dict[str, Any], change: int) -> None:
        """Count a request that begins (1) or has ended (-1), if it names tokens."""
        if body.get("logprob_token_ids"):
            with self._lock:
                self.named += change


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that goes away is none."""


class _Handler(BaseHTTPRequestHandler):
    server_of: FakeVllm
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Models and health."""
        fake = self.server_of
        if fake.gone:
            self.close_connection = True
        elif fake.key is not None and self.headers["authorization"] != f"Bearer {fake.key}":
            self._json(401, {"error": "Unauthorized"})
        elif self.path == "/health" and fake.fault == "500":
            self._json(503, {})
        elif self.path == "/v1/models":
            card = {"id": "base", "parent": None, "max_model_len": fake.max_model_len}
            loras = [{"id": name, "parent": "base"} for name in fake.loras]
            self._json(200, {"object": "list", "data": [*loras, card]})
        else:
            self._json(200, {})

    def do_POST(self) -> None:
        """Completions and LoRAs."""
        fake = self.server_of
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if fake.gone:
            self.close_connection = True
            return
        try:
            if fake.key is not None and self.headers["authorization"] != f"Bearer {fake.key}":
                raise RefusedError(401, "Unauthorized")
            if fake.fault == "500":
                raise RefusedError(500, "EngineCore encountered an issue.")
            if self.path == "/v1/load_lora_adapter":
                fake.load(body["lora_name"], body["lora_path"])
                self._json(200, "Success")
            elif self.path == "/v1/unload_lora_adapter":
                fake.unload(body["lora_name"])
                self._json(200, "Success")
            else:
                fake.asked.append(body)
                fake.check(body)
                self._complete(body, fake.inputs(body))
        except RefusedError as error:
            self._json(error.status, {"error": {"message": str(error), "code": error.status}})

    def _complete(self, body: dict[str, Any], inputs: torch.Tensor) -> None:
        fake = self.server_of
        cached = fake.cached(body, len(inputs))
        usage = {"prompt_tokens": len(inputs), "prompt_tokens_details": {"cached_tokens": cached}}
        generator = None
        if body.get("seed") is not None:
            generator = torch.Generator().manual_seed(body["seed"])
        choices = self._choices(body, inputs, generator)
        if not body.get("stream"):
            fake.naming(body, 1)
            try:
                choice = next(choices)
            finally:
                fake.naming(body, -1)
            self._json(200, {"choices": [choice], "usage": usage})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            for number, choice in enumerate(choices):
                if number == 2 and self._faulty():
                    return
                self._event(json.dumps({"choices": [choice]}))
            self._event(json.dumps({"choices": [], "usage": usage}))
            self._event("[DONE]")
            return
        fake.broken_off += 1

    def _faulty(self) -> bool:
        fault = self.server_of.fault
        if fault == "garbage":
            self._event("{nonsense")
        elif fault == "no ids":
            self._event(json.dumps({"choices": [{"text": "x", "finish_reason": None}]}))
        elif fault == "error event":
            self._event(json.dumps({"error": {"message": "boom", "code": 500}}))
        elif fault == "silent":
            threading.Event().wait(30)
        return bool(fault)

    def _choices(self, body: dict[str, Any], inputs: torch.Tensor, generator: Any) -> Any:
        fake, most = self.server_of, body["max_tokens"]
        for number in range(1, most + 1):
            logits = fake.logits(body["model"], inputs)
            raw = logits.log_softmax(dim=-1)
            token = draw(body, logits, generator)
            reason = "length" if number == most else None
            ends = {*body.get("stop_token_ids", ()), *(() if body.get("ignore_eos") else (256,))}
            if token in ends:
                reason = "stop"
            choice = {"index": 0, "text": "?", "token_ids": [token], "finish_reason": reason}
            if body.get("logprobs") is not None:
                choice["logprobs"] = told(
                    body, token, raw, asked_ids=fake.asked_ids, beside_named=fake.named > 0
                )
                if fake.fault == "no numbers":
                    choice["logprobs"]["token_logprobs"] = [-9999.0]
            yield choice
            if reason is not None:
                return
            inputs = torch.cat([inputs, fake.embedded([token])])

    def _event(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data)

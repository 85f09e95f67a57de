"""A server that the engine starts, stops, and whose last words it repeats."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tunewise.errors import ConfigError, UnavailableError
from tunewise.serve.vllm.process import Start, VllmProcess

# Stands for the Python of vLLM's environment: it is given `-m MODULE` and flags.
SERVER = """
import http.server, os, sys
flags = sys.argv[1:]
assert flags[:2] == ["-m", "vllm.entrypoints.openai.api_server"], flags
print("key", os.environ["VLLM_API_KEY"], os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], flush=True)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
address = ("127.0.0.1", int(flags[flags.index("--port") + 1]))
http.server.HTTPServer(address, Answer).serve_forever()
"""
FAILS = """
import sys
print("\\n".join(f"line {n}" for n in range(100)))
sys.exit("RuntimeError: no AVX-512 here")
"""
NEVER_READY = "import time; print('loading'); time.sleep(60)"


def python(folder: Path, text: str) -> str:
    script = folder / "server.py"
    script.write_text(text)
    starter = folder / "python"
    starter.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {script} "$@"\n')
    starter.chmod(starter.stat().st_mode | stat.S_IXUSR)
    return str(starter)


def start(python: str, **changes: Any) -> Start:
    return Start(python, "/models/tiny", "float32", **changes)


def alive(process: VllmProcess) -> bool:
    return process._process.poll() is None


def test_it_is_started_waited_for_and_ended(tmp_path: Path) -> None:
    process = VllmProcess(start(python(tmp_path, SERVER)))
    assert alive(process)
    assert process.url.startswith("http://127.0.0.1:")
    assert f"key {process.key} True" in process.log.read_text()
    process.stop()
    process.stop()
    assert not alive(process)


@pytest.mark.parametrize(
    ("text", "said"), [(FAILS, "no AVX-512 here"), (NEVER_READY, "not ready within 1 seconds")]
)
def test_one_that_does_not_come_up_tells_its_last_words(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match="did not start") as refused:
        VllmProcess(start(python(tmp_path, text), patience_seconds=1.0))
    assert said in refused.value.found
    assert "line 5\n" not in refused.value.found
    assert Path(refused.value.fix.split()[-1]).is_file()


@pytest.mark.parametrize("name", ["nothing/here", "a folder"])
def test_a_python_that_cannot_be_started(name: str, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    with pytest.raises(ConfigError, match="--vllm-python"):
        VllmProcess(start(str(tmp_path / name)))


def test_the_flags_and_the_environment() -> None:
    given = {"PYTHONPATH": "ours", "VLLM_CPU_KVCACHE_SPACE": "8", "VLLM_API_KEY": "other"}
    made = start("py", context_tokens=99, slots=3)
    command, environment = made.command(1234), made.environment(given, "k")
    text = " ".join(command)
    for wanted in (
        "py -m vllm.entrypoints.openai.api_server",
        "--model /models/tiny",
        "--host 127.0.0.1 --port 1234",
        "--dtype float32",
        "--max-model-len 99",
        "--max-num-seqs 3",
        "--enable-prompt-embeds",
        "--enable-lora",
        "--gpu-memory-utilization 0.2",
        "--disable-uvicorn-access-log",
    ):
        assert wanted in text
    # A LoRA beside embeddings ends vLLM where the embeddings may be changed.
    assert text.endswith(
        "--lora-target-modules q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    )
    assert "PYTHONPATH" not in environment
    assert environment["VLLM_API_KEY"] == "k"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "8"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["HF_HUB_OFFLINE"] == "1"
    elsewhere = start("py", on_cpu=False)
    assert "--enforce-eager" not in elsewhere.command(1)
    assert not any(name.startswith("VLLM_CPU") for name in elsewhere.environment({}, "k"))
    assert os.environ.get("VLLM_API_KEY") != "k"

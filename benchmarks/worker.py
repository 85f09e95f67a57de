"""One side of a comparison in a process of its own: `python -m benchmarks.worker JOB`.

Orders come on standard input; reports go to what standard output was at the start, which is then
turned to standard error, so that whatever a library prints disturbs nobody.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from benchmarks.gate import Gate
from benchmarks.jobs import Job

SIDES = {
    "ours": "benchmarks.ours:serve",
    "trainer": "benchmarks.peers:serve_trainer",
    "sft_trainer": "benchmarks.peers:serve_sft_trainer",
    "ours_scoring": "benchmarks.scoring:serve_ours",
    "plain_scoring": "benchmarks.scoring:serve_plain",
    "lm_eval": "benchmarks.scoring:serve_lm_eval",
    "matmul": "benchmarks.matmul:serve",
    "growth": "benchmarks.growth:serve",
}


def main() -> None:
    """Serve the job given as the one argument, until the gate closes."""
    _first_to_go()
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    gate = Gate(sys.stdin, reports)
    job = Job.from_json(sys.argv[1])
    try:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        module, _, function = SIDES[job.side].partition(":")
        getattr(importlib.import_module(module), function)(job, gate)
    except Exception as error:
        gate.failed(error)
        raise


def _first_to_go() -> None:
    """Where memory runs out (Linux), a side dies, not what else the machine is doing."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()

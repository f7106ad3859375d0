# One verb a line; `make help` lists them. The only tools needed: Python >= 3.11, a C++ compiler, cmake.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
LLMSUP := $(BIN)/llmsup
STAMP := $(VENV)/.stamp
# The tests wait more than they compute.
JOBS ?= 3
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: help setup run stop build model docs test test-unit test-integration test-slow test-real lint type layers check fuzz chaos soak attack bench bench-litellm bench-profile lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)-runtime build model  ## everything `run` needs: virtual environment, llama-server, demo model

$(STAMP)-runtime: requirements/runtime.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install python3 (apt install python3 python3-venv), or make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) ..."
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo "the venv module is missing: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(STAMP)-dev: requirements/dev.txt $(STAMP)-runtime
	@echo "adding the development tools ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

build: $(STAMP)-runtime  ## llama-server from the pinned source, once per user
	@$(LLMSUP) build

model: $(STAMP)-runtime  ## models/demo.gguf, made here, no network
	@$(BIN)/python models/make_demo.py --if-missing

docs: $(STAMP)-runtime  ## what the program knows of itself, into docs/reference.md
	@PYTHONPATH=. $(BIN)/python docs/make_reference.py

# Named, so that a checkout of another user's (root in a container) runs too, with a warning: its Makefile runs already.
run stop: export LLMSUP_CONFIG ?= $(CURDIR)/config/llmsup.yaml

run: setup  ## set up, start llmsup in the background, ask the model something
	@$(LLMSUP) status >/dev/null 2>&1 || $(LLMSUP) start
	@echo; echo '$$ llmsup chat "Tell me a story"'; $(LLMSUP) chat "Tell me a story"
	@printf '\nIt runs. Try next:\n  %s chat "And then?"\n' $(LLMSUP)
	@printf '  curl %s/v1/chat/completions -d '"'"'{"messages":[{"role":"user","content":"Hello"}]}'"'"'\n' \
		"$$($(LLMSUP) status --json | $(BIN)/python -c 'import json,sys; print(json.load(sys.stdin)["url"])')"
	@printf '  %s status       # then kill -9 the pid of the model, and ask again\n  make stop                     # and: make help\n' $(LLMSUP)

stop:  ## stop what `make run` started
	@if test -x $(LLMSUP); then $(LLMSUP) stop; else echo "nothing is set up here, so nothing runs"; fi

test: $(STAMP)-dev build model  ## all tests: unit, fake llama-server, real llama-server
	@$(BIN)/python -m pytest -n $(JOBS)

test-unit: $(STAMP)-dev  ## pure parts, injected time
	@$(BIN)/python -m pytest -n $(JOBS) -m 'not slow' tests/unit

test-integration: $(STAMP)-dev  ## the daemon on a fake llama-server with failure switches
	@$(BIN)/python -m pytest -n $(JOBS) -m 'not slow' tests/integration

test-slow: $(STAMP)-dev  ## those of them that need minutes
	@$(BIN)/python -m pytest -n $(JOBS) -m slow tests/unit tests/integration

test-real: $(STAMP)-dev build model  ## the daemon on the real binary and the demo model
	@$(BIN)/python -m pytest -n $(JOBS) tests/real

lint: $(STAMP)-dev  ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(STAMP)-dev  ## mypy --strict
	@$(BIN)/mypy && $(BIN)/mypy --strict models/*.py docs/*.py && $(BIN)/mypy --strict --explicit-package-bases benchmarks/*.py

layers: $(STAMP)-dev  ## who may import whom
	@$(BIN)/lint-imports

check: lint type layers test  ## everything a commit must pass

fuzz: $(STAMP)-dev  ## the request parser under libFuzzer for a minute (needs: pip install atheris; FUZZ='-max_total_time=600')
	@$(BIN)/python -m tests.fuzz.parser $(FUZZ)

chaos: $(STAMP)-dev build model  ## random faults under load on the real binary (5 minutes; CHAOS='--seconds 60 --seed 2')
	@$(BIN)/python -m tests.chaos.run $(CHAOS)

soak: $(STAMP)-dev build model  ## 1,000 kills of the real binary: does anything grow?
	@$(BIN)/python -m tests.chaos.soak $(SOAK)

attack: $(STAMP)-dev build model  ## strangers attack the real binary while honest clients ask (2 minutes; ATTACK='--seconds 20 --seed 2')
	@$(BIN)/python -m tests.attack.run $(ATTACK)

bench: $(STAMP)-dev  ## llmsup beside no proxy, nginx, HAProxy: speed and memory (12 minutes; BENCH='--quick' 3)
	@$(BIN)/python -m benchmarks.bench $(BENCH)

bench-litellm: $(STAMP)-dev  ## install LiteLLM's proxy where bench finds it (740 MB in ~/.cache/llmsup)
	@$(BIN)/python -m benchmarks.others

bench-profile: $(STAMP)-dev  ## where llmsup's time goes (SCENARIO=pass-64, chat-64, short-64, sse-256 ...)
	@$(BIN)/python -m benchmarks.bench --profile $(or $(SCENARIO),chat-64)

lock:  ## write requirements/*.txt anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group setup -o requirements/runtime.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group dev -o requirements/dev.txt

clean:  ## remove what was made here (the built llama-server stays in the user's cache)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis .pytest_cache .import_linter_cache benchmarks/.build models/demo.gguf

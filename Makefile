# Each target does its own set-up, and does it again only when the files it is made from have changed.
# Needs: Python >= 3.11 with venv, a package index that pip can reach. ARGS="…" is passed on: make demo ARGS=--once

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=

.PHONY: help install demo test check litellm bench bench-write bench-peers prove-bound prove-kill prove-simulate prove-mutations prove-day requirements clean
help:
	@echo "make install       the faregate command in $(VENV)"
	@echo "make demo          a local engine, emulated hosts and the gateway; a priced conversation (ARGS=--once ends after it)"
	@echo "make test          the test suite (ARGS='-k prices' for a part)"
	@echo "make check         ruff, mypy and faregate check"
	@echo "make bench         CPU, latency and memory beside nginx, and beside LiteLLM and Portkey after make bench-peers; what holds"
	@echo "                   cost on SQLite, PostgreSQL and with Redis (ARGS='--parts holds --seconds 1' for a part, or a quick look)"
	@echo "make bench-write   the same, and docs/performance.md written anew"
	@echo "make prove-bound   one budget under many streams on three gateways: never beyond the bound (needs redis-server, postgres)"
	@echo "make prove-kill    a minute of kill -9 and restarts against the host's bill (needs redis-server, postgres)"
	@echo "make prove-simulate, prove-mutations  5,000 seeded histories of the ledger; planted faults that each must turn a proof red"
	@echo "make litellm       litellm in an environment of its own, for hosts whose protocol is not OpenAI's: docs/hosts.md"
	@echo "make prove-day     a day of conversations before four emulated hosts and a real engine costs what the simulator foretold"
	@echo "make requirements  the hash-pinned requirements files, compiled anew (needs uv)"

install: $(VENV)/.base
	@echo "Installed: $(BIN)/faregate --help"

demo: $(VENV)/.local
	$(BIN)/faregate demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/faregate check

# What is not installed (nginx, PostgreSQL, Redis, and the two of bench-peers) is left out, and said so.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-write: $(VENV)/.dev
	$(BIN)/python -m benchmarks.bench --write $(ARGS)

# Each prints one JSON line last; what it shows stands in docs/proofs.md.
# hardcap is only compared with: without it, the proof says so and goes on.
prove-bound: $(VENV)/.dev
	-@$(MAKE) --no-print-directory .bench/hardcap/.made
	$(BIN)/python -m proofs.bound $(ARGS)

prove-kill: $(VENV)/.dev
	$(BIN)/python -m proofs.kill $(ARGS)

prove-simulate: $(VENV)/.dev
	$(BIN)/python -m proofs.simulate $(ARGS)

prove-mutations: $(VENV)/.dev
	$(BIN)/python -m proofs.planting $(ARGS)

prove-day: $(VENV)/.dev
	$(BIN)/python -m proofs.day $(ARGS)

# The set of packages of a stamp .NAME is requirements/NAME.txt: base < local < dev.
$(VENV)/.base $(VENV)/.local $(VENV)/.dev: $(VENV)/.%: requirements/%.txt requirements/build.txt pyproject.toml | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements/build.txt -r $<
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Faregate needs Python 3.11 or newer, and none was found ($$(python3 --version 2>&1)). Install one"; \
		echo "(Debian 12: apt-get install python3 python3-venv; macOS: brew install python@3.13) or name it: make install PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: name a newer one with PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	@touch $@

# litellm and its sixty packages stay apart from the gateway: FAREGATE_LITELLM_PYTHON=$(VENV)/litellm/bin/python.
litellm: $(VENV)/litellm/.made

$(VENV)/litellm/.made: requirements/litellm.txt | $(VENV)/.made
	$(BIN)/python -m venv $(VENV)/litellm
	$(VENV)/litellm/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	@touch $@

# What make bench compares with; outside the package and its environment, in .bench/.
bench-peers: .bench/litellm/.made .bench/portkey/.made

.bench/litellm/.made: requirements/bench-litellm.txt | $(VENV)/.made
	$(BIN)/python -m venv .bench/litellm
	.bench/litellm/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	@touch $@

.bench/hardcap/.made: requirements/bench-hardcap.txt | $(VENV)/.made
	$(BIN)/python -m venv .bench/hardcap
	.bench/hardcap/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	@touch $@

.bench/portkey/.made: benchmarks/portkey/package.json benchmarks/portkey/package-lock.json
	mkdir -p .bench/portkey
	cp benchmarks/portkey/package.json benchmarks/portkey/package-lock.json .bench/portkey/
	npm ci --prefix .bench/portkey --ignore-scripts --no-audit --no-fund
	@touch $@

# dev is resolved first; the smaller sets take its versions, so that one environment can hold them all.
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make requirements"
requirements:
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/base.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt --extra local -o requirements/local.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt --extra postgres -o requirements/postgres.txt
	$(COMPILE) pyproject.toml -c requirements/dev.txt --extra litellm -o requirements/litellm.txt
	$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(COMPILE) requirements/bench-litellm.in -o requirements/bench-litellm.txt
	$(COMPILE) requirements/bench-hardcap.in -o requirements/bench-hardcap.txt

clean:
	rm -rf $(VENV) .bench .pytest_cache .mypy_cache .ruff_cache build dist

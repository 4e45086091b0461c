# Each target does its own set-up, and does it again only when the files it is made from have changed.
# Needs: Python >= 3.11 with venv, a package index that pip can reach. ARGS="…" is passed on: make demo ARGS=--once

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=

.PHONY: help install demo test check litellm checks focus-checks axe pictures dashboards dashboards-types prove-dashboards chart bench bench-write bench-peers prove-bound prove-kill prove-alerts prove-rolling prove-simulate prove-mutations prove-day requirements clean
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
	@echo "make prove-rolling half a minute in which three gateways are restarted in turn: nobody notices (needs redis-server, postgres)"
	@echo "make prove-alerts  every alert of minutes fires for its cause, live, and ends after it (needs prometheus, redis-server, postgres)"
	@echo "make prove-simulate, prove-mutations  5,000 seeded histories of the ledger; planted faults that each must turn a proof red"
	@echo "make litellm       litellm in an environment of its own, for hosts whose protocol is not OpenAI's: docs/hosts.md"
	@echo "make checks        the checkers of Dockerfile, Compose file and chart, in an environment of their own, for make test"
	@echo "make focus-checks  the validator of FOCUS exports, in an environment of its own, for make test (needs Python 3.12): docs/focus.md"
	@echo "make axe           the checker of web pages, in a folder of its own, for make test (needs chromium): docs/console.md"
	@echo "make dashboards    the dashboards for Grafana, written anew by their builder (ARGS='--docs URL --out DIR'): docs/dashboards.md"
	@echo "make dashboards-types  Grafana's own types, in a folder of their own, for make test (needs node and npm)"
	@echo "make prove-dashboards  every query of every panel is answered by a real Prometheus (needs prometheus, redis-server, postgres)"
	@echo "make pictures      the pictures of the console and of the dashboards, drawn anew from gateways in use (needs chromium and the same)"
	@echo "make chart         the chart's README, and its copies of dashboards and rules, written anew: docs/kubernetes.md"
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

prove-rolling: $(VENV)/.dev
	$(BIN)/python -m proofs.rolling $(ARGS)

prove-alerts: $(VENV)/.dev
	$(BIN)/python -m proofs.alerts $(ARGS)

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

# What reads the Dockerfile, the Compose file and the chart; it stays apart, because some of it is under the GPL.
checks: $(VENV)/checks/.made

$(VENV)/checks/.made: requirements/checks.txt | $(VENV)/.made
	$(BIN)/python -m venv $(VENV)/checks
	$(VENV)/checks/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	@touch $@

# The validator of FOCUS exports needs Python 3.12, and packages that no newer one can have: FOCUS_PYTHON=/path/to/python3.12.
FOCUS_PYTHON ?= $(shell for p in python3.12 "$$HOME"/.pyenv/versions/3.12*/bin/python python3 python; do \
	"$$p" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo "$$p" && break; done)
focus-checks: $(VENV)/focus/.made

$(VENV)/focus/.made: requirements/focus.txt
	@test -n "$(FOCUS_PYTHON)" || { echo "focus-validator needs Python 3.12, and none was found. Install one, or name it: make focus-checks FOCUS_PYTHON=/path/to/python3.12"; exit 1; }
	$(FOCUS_PYTHON) -m venv $(VENV)/focus
	$(VENV)/focus/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	@touch $@

# axe-core looks at the console's pages in the tests. Only its script is wanted, not the browsers that the package would bring.
axe: $(VENV)/axe/.made

$(VENV)/axe/.made: requirements/axe.txt | $(VENV)/.made
	rm -rf $(VENV)/axe
	$(PIP) install --no-deps --require-hashes --target $(VENV)/axe -r $<
	@touch $@

pictures: $(VENV)/.dev
	$(BIN)/python -m tests.console_scene docs/pictures
	$(BIN)/python -m proofs.pictures $(ARGS)

dashboards: $(VENV)/.base
	$(BIN)/python -m dashboards.builder $(ARGS)
	$(BIN)/python helm/generate.py

prove-dashboards: $(VENV)/.dev
	$(BIN)/python -m proofs.panels $(ARGS)

# The types of Grafana's dashboards, which the tests hold ours against.
dashboards-types: $(VENV)/grafana/.made

$(VENV)/grafana/.made: dashboards/check/package.json dashboards/check/package-lock.json | $(VENV)/.made
	mkdir -p $(VENV)/grafana
	cp dashboards/check/package.json dashboards/check/package-lock.json $(VENV)/grafana/
	npm ci --prefix $(VENV)/grafana --ignore-scripts --no-audit --no-fund
	@touch $@

# The chart's README table, and its copies of dashboards and rules, from what they are made from.
chart: $(VENV)/.base
	$(BIN)/python helm/generate.py

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
	$(COMPILE) requirements/image.in -o requirements/image.txt
	$(COMPILE) requirements/checks.in -o requirements/checks.txt
	$(subst 3.11,3.12,$(COMPILE)) requirements/focus.in -o requirements/focus.txt
	$(COMPILE) --no-deps requirements/axe.in -o requirements/axe.txt
	$(COMPILE) requirements/bench-litellm.in -o requirements/bench-litellm.txt
	$(COMPILE) requirements/bench-hardcap.in -o requirements/bench-hardcap.txt

clean:
	rm -rf $(VENV) .bench .pytest_cache .mypy_cache .ruff_cache build dist

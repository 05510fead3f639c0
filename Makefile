# Each target says what it does behind two hashes; `make` lists them.
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
STAMP := .venv/.installed
PROJECTS := shared services/order-events services/notifier services/tracking deploy
CHAOS_SECONDS := 140
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## make .venv with everything pinned (the others call it when needed)

# uv installs ten times as fast as pip, which brings uv and stands in where uv cannot reach the packages.
$(STAMP): requirements.txt requirements-dev.txt $(PROJECTS:%=%/pyproject.toml)
	@if ! [ -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  python=; \
	  for name in $${PYTHON:-python3 python3.13 python3.12 python3.11}; do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	  done; \
	  [ -n "$$python" ] || { echo 'make: Afterglow needs Python 3.11 or newer; found none (name one with PYTHON=...).' >&2; exit 1; }; \
	  "$$python" -m venv --clear .venv >/dev/null 2>&1 || { rm -rf .venv; \
	    echo "make: $$python has no working venv module; on Debian and Ubuntu install python3-venv." >&2; exit 1; }; \
	fi
	@echo 'make: installing pinned packages into .venv'
	@sed -n '/^uv==/,/[^\\]$$/p' requirements-dev.txt > .venv/uv.txt
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r .venv/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps --compile-bytecode \
	    -r requirements.txt -r requirements-dev.txt \
	  || $(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.txt -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation $(PROJECTS:%=-e ./%)
	@touch $@

.PHONY: format
format: install ## format the code and mend what can be mended
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: lint
lint: install ## ruff: every rule, formatting included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: install ## mypy, strict, over all packages
	$(BIN)/mypy

.PHONY: imports
imports: install ## who may import whom
	$(BIN)/lint-imports

# An environment that forbids cached bytecode has every worker and service compile everything anew.
.PHONY: test
test: export PYTHONDONTWRITEBYTECODE =
test: install ## all tests that this machine can run; skips are listed with the reason
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

.PHONY: check
check: lint types imports test chaos-short ## what CI runs

.PHONY: chaos-short
chaos-short: install
	@if [ -f tests/chaos/__main__.py ]; then $(BIN)/python -m tests.chaos --seconds $(CHAOS_SECONDS); \
	  else echo 'chaos: no kill test yet'; fi

.PHONY: chaos
chaos: install ## the kill test with its checker
	$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: soak
soak: install ## the kill test, long and seeded
	$(BIN)/python -m tests.chaos --soak $(ARGS)
	$(BIN)/pytest tests/integration tests/tracking -n 2 -m soak --timeout 1200

.PHONY: bench
bench: install ## the benchmarks beside their baselines
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: system
system: install ## the compose stack, driven from outside (needs Docker)
	$(BIN)/pytest tests/system $(ARGS)

.PHONY: demo
demo: install ## everything on one machine, playing one order's story (ARGS=--once: play, check, stop)
	@$(BIN)/afterglow demo $(ARGS)

PINS := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-header --no-annotate

.PHONY: requirements
requirements: install ## pin again what the projects ask for (ARGS=--upgrade: the newest of each)
	$(PINS) $(ARGS) $(foreach p,shared order-events notifier tracking,--no-emit-package afterglow-$(p)) \
	  $(PROJECTS:%=%/pyproject.toml) -o requirements.txt
	$(PINS) $(ARGS) -c requirements.txt --group dev -o requirements-dev.txt

# Every target sets up what it needs: Python 3.11 and make are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
export PYTHONWARNINGS ?= ignore::UserWarning

.PHONY: install demo test test-long dev lint bench coverage screenshots docs audit
install: $(READY)

# Built beside and stamped last, so that an interrupted installation is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "saju_ops needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV) (a minute or two, once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	@$(BIN)/saju-ops demo

# Every behaviour once.
test: install
	@$(BIN)/python -m saju_ops_tests.engines install
	$(BIN)/python -m pytest -m "not long"

# What repeats or waits: kills at every step, storms of calls, hostile inputs in number, full-size data.
test-long: install
	@$(BIN)/python -m saju_ops_tests.engines install
	$(BIN)/python -m pytest -m long

# Branches of the domain packages that no test of both runs takes.
coverage: install
	@$(BIN)/python -m saju_ops_tests.engines install
	$(BIN)/python -m pytest --cov=saju_ops --cov-branch --cov-report=term:skip-covered

# The UI and the daemon on 127.0.0.1:3000. History lives in .dagster_home and survives restarts.
dev: install
	@$(BIN)/saju-ops dev

# The pictures in docs/images, of the demo's UI; needs Debian's chromium and fonts-noto-cjk.
screenshots: install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[screenshots]'
	$(BIN)/python -m saju_ops_tests.screenshots

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry saju_ops
	$(BIN)/deptry . --ignore DEP004

# Known weaknesses and the licences of all packages. Asks the network; no part of CI.
audit: install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[audit]'
	$(BIN)/python -m saju_ops_tests.audit

# docs/settings.md and .env.example, from the classes of the settings.
docs: install
	$(BIN)/python -m saju_ops_tests.settings.documents

bench: install
	@$(BIN)/python -m saju_ops_tests.engines install
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.chroma

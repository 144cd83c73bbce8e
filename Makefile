# make demo: set up and run the main job.  make test: set up and run every test, lint and the type checker.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --quiet --disable-pip-version-check

.PHONY: demo test lint clean

demo: $(VENV)/.ready
	$(BIN)/everlearn demo

test: $(VENV)/.ready-dev
	./tests/system-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch and torchvision come first, together, so that pip picks a pair that fits; nothing is fetched again once this stands
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Everlearn needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install torch torchvision
	$(PIP) install -e '.[serve]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) install -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info

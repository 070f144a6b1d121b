# make demo: the whole story on a drawn study, offline.   make test: every check and every test.
# make simulations: measures what docs/evaluation.md says of the statistics, and writes it there (about 40 minutes).
# All create the environment by themselves.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO ?= demo

.PHONY: demo test check format simulations clean

demo: $(INSTALLED)
	$(BIN)/mien demo --out $(DEMO)

test: check
	$(BIN)/pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One thread, so that the figures don't depend on how many cores sum them up.
simulations: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.simulations

# torch is named here so that pip takes its CPU build in the same command as everything that depends on it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[train,speech,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)

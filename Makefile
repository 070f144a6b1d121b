# make demo: the whole story on a drawn study, offline.   make test: every check and every test.
# make pictures: writes the documents' pictures, from the demo (needs Chromium).
# make reference: writes docs/reference.md from the commands themselves.
# make simulations: measures what docs/evaluation.md says of the statistics, and writes it there (about 40 minutes).
# All create the environment by themselves.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUNTIME := .venv-runtime
DEMO ?= demo

.PHONY: demo test check runtime format pictures reference simulations clean

demo: $(INSTALLED)
	$(BIN)/mien demo --out $(DEMO)

# Two processes of one thread each; a file stays in one of them, because its tests share what they made.
test: check runtime
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pictures: demo
	$(BIN)/python tests/pictures.py $(DEMO) docs

reference: $(INSTALLED)
	$(BIN)/python -m mien.reference > docs/reference.md

# One thread, so that the figures don't depend on how many cores sum them up.
simulations: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.simulations

# torch is named here so that pip takes its CPU build in the same command as everything that depends on it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[train,speech,dev]'
	touch $@

# What `pip install mien` gives: no torch. Tests predict and serve in it.
runtime: $(RUNTIME)/.installed

$(RUNTIME)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

clean:
	rm -rf $(VENV) $(RUNTIME) $(DEMO)

# make demo   installs into .venv and runs the whole flow on the embedded mini world
# make test   installs into .venv and runs the tests
# make lint   ruff, pyright and the floors of imports
# make clean  removes .venv and runs/mini*
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check

.PHONY: demo test lint clean

demo: $(VENV)/installed-base
	$(VENV)/bin/thinksafe run --config configs/recipes/mini.yaml --new-run
	$(VENV)/bin/thinksafe run --config configs/recipes/mini_direct_refusal.yaml --new-run
	$(VENV)/bin/python scripts/check_demo.py runs/mini runs/mini_direct_refusal

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright

clean:
	rm -rf $(VENV) runs/mini runs/mini_direct_refusal

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-base: pyproject.toml | $(VENV)/bin/pip
	$(PIP) install --quiet -e .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/pip
	$(PIP) install --quiet -e '.[test]'
	touch $@ $(VENV)/installed-base

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/pip
	$(PIP) install --quiet -e '.[dev]'
	touch $@ $(VENV)/installed-base $(VENV)/installed-test

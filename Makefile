# make demo    installs into .venv and runs the whole flow on the embedded mini world
# make check   lint, types, layers of imports, and the fast tests: what to run before each commit
# make test    every test
# make docs    the site in build/site, with links checked, and the commands of its pages run
# make lint    ruff, pyright and the floors of imports
# make dist    sdist and wheel in dist/, checked as PyPI does; the tag of HEAD must be the version's
# make lock    writes what .venv holds to .ci/requirements.lock, with which CI installs
# make clean   removes .venv and runs/mini*
PYTHON ?= python3
# a file of constraints for pip: make test CONSTRAINTS=.ci/requirements.lock
CONSTRAINTS ?=
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet $(addprefix -c ,$(CONSTRAINTS))
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
DEMO := runs/mini runs/mini_direct_refusal runs/mini-safepath

.PHONY: demo check test fast lint docs dist lock clean

demo: $(VENV)/installed-base
	@echo "A tiny reasoning model that complies with most harmful prompts is made safe again by its own answers;"
	@echo "two baselines get the same prompts. Each is asked before and after. Some three minutes on two cores."
	$(VENV)/bin/thinksafe run --config configs/recipes/mini.yaml --new-run
	$(VENV)/bin/thinksafe run --config configs/recipes/mini_direct_refusal.yaml --new-run
	$(VENV)/bin/thinksafe run --config configs/recipes/mini-safepath.yaml --new-run
	$(VENV)/bin/thinksafe report $(DEMO) --out runs/mini-demo.html
	$(VENV)/bin/python scripts/check_demo.py $(DEMO)

# pyright has one core and the tests have the other, then both
check: $(VENV)/installed-dev
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lint fast

test: $(VENV)/installed-test
	$(PYTEST) $(PYTEST_ARGS)

fast: $(VENV)/installed-test
	$(PYTEST) -q -m 'not slow and not hosts and not hub' $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict
	$(VENV)/bin/python scripts/site/check_commands.py

# pip builds each in an environment of its own; a tag on this commit that is no vVERSION ends it
dist: $(VENV)/installed-test
	version=$$($(VENV)/bin/python -c 'import thinksafe_jax; print(thinksafe_jax.__version__)'); \
	tags=$$(git tag --points-at HEAD); \
	test -z "$$tags" || test "$$tags" = "v$$version" || \
	{ echo "this commit has the tag $$tags, thinksafe_jax/version.py says $$version"; exit 1; }
	rm -rf dist
	$(PIP) install --quiet build
	$(VENV)/bin/python -m build
	$(VENV)/bin/python -m twine check --strict dist/*

# a version without its local part (torch's +cpu) is one that every index has
lock: $(VENV)/installed-dev
	$(PIP) freeze --exclude-editable | sed 's/+.*//' > .ci/requirements.lock

clean:
	rm -rf $(VENV) $(DEMO) runs/mini-demo.html

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-base: pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e '.[test]'
	touch $@ $(VENV)/installed-base

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/installed-base $(VENV)/installed-test

# make demo     locate, prove and plot a refusal circuit on the built-in organisms (a few minutes)
# make test     the test suite
# make test-bridge  the tests of TransformerBridge, with TransformerLens 4 and without SAELens, in an environment of their own
# make test-ray the tests on several workers; installs Ray
# make coverage the same, with the lines that no test runs (slower)
# make lint     formatting, lint, import layers, types
# make bench    benchmarks: ratios against naive baselines
# make docs     the documentation site, in site/
# make figures  every number and picture of the README and the docs again
# make notebooks  the notebooks again, with their outputs
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BRIDGE := .venv-bridge
BRIDGE_READY := $(BRIDGE)/.ready

.PHONY: demo test test-bridge test-ray coverage lint docs bench figures notebooks format clean

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; make PYTHON=python3.12 …"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,docs]'
	touch $(READY)

demo: $(READY)
	$(BIN)/mechsurgery demo --out figures/demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# SAELens needs TransformerLens 3, so that the two are never together.
$(BRIDGE_READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(BRIDGE)
	grep -vE '^(transformer-lens|sae-lens)==' constraints.txt > $(BRIDGE)/constraints.txt
	$(BRIDGE)/bin/python -m pip install --quiet --disable-pip-version-check -c $(BRIDGE)/constraints.txt torch
	$(BRIDGE)/bin/python -m pip install --quiet --disable-pip-version-check -c $(BRIDGE)/constraints.txt \
	  'transformer-lens>=4.3,<5' pytest beartype -e '.[probes]'
	touch $(BRIDGE_READY)

test-bridge: $(BRIDGE_READY)
	$(BRIDGE)/bin/python -m pytest tests/bridge

test-ray: $(READY)
	$(BIN)/python -c 'import ray' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -m ray tests/adapters/test_many.py

coverage: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov=mechsurgery --cov-report=term:skip-covered

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python tests/benchmarks/discovery.py
	$(BIN)/python tests/benchmarks/sweep.py
	$(BIN)/python tests/benchmarks/attribution.py
	$(BIN)/python tests/benchmarks/finetune.py
	$(BIN)/python tests/benchmarks/weights.py
	$(BIN)/python tests/benchmarks/gates.py
	$(BIN)/python tests/benchmarks/explorer.py

figures: $(READY)
	$(BIN)/python figures/readme.py
	$(BIN)/python figures/explorer.py
	$(BIN)/python figures/rates.py
	$(BIN)/python figures/positions.py
	$(BIN)/python figures/outcomes.py
	$(BIN)/python figures/localisers.py

notebooks: $(READY)
	$(BIN)/python notebooks/execute.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(BRIDGE) build site *.egg-info

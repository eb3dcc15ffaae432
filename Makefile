# make demo: the lab, from pretraining to report. make test: all tests. Each makes its environment.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quick lint clean

demo: .venv/.core
	$(BIN)/python -m lfjax.main --config configs/lab.py --workdir runs/lab

test: .venv/.test .venv/.tpu lint
	$(BIN)/python -m pytest -n 2

quick: .venv/.test
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/.core: setup.py
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'Python 3.11 or newer is needed'"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/.test: .venv/.core
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

# The TPU compiler, beside the environment: within it, JAX would look for a TPU wherever it starts.
.venv/.tpu: .venv/.test
	$(BIN)/pip install --quiet --no-deps --target .venv/tpu "$$($(BIN)/python -c "import importlib.metadata as m; print(next(r.partition(';')[0] for r in m.requires('jax') if r.startswith('libtpu')))")" || echo "libtpu could not be installed: tests that compile for TPUs are skipped"
	touch $@

clean:
	rm -rf .venv .jax_cache .pytest_cache .ruff_cache *.egg-info

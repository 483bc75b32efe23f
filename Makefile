# Each target sets up what it needs. `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The package with what it needs; on top of it what tests, linters and measurements need.
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
# Tests at a time: the cores that this process may use, or all of them where that is not told (macOS).
JOBS ?= $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())")
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready

.PHONY: setup setup-dev demo test lint bench bench-peers clean

setup: $(INSTALLED)

setup-dev: $(READY)

# Installed so that edited Python counts at once; other versions, and edited C, install again.
KERNELS := setup.py $(wildcard csrc/*)
$(INSTALLED): pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $(INSTALLED)

$(READY): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(INSTALLED)
	$(BIN)/foveal demo --out runs/demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Ours, plainly and fast; a benchmark that is not there is passed over.
BENCHES := $(foreach name,matching loss decoding nms growth loader training training_memory reading evaluation,$(basename $(notdir $(wildcard benchmarks/$(name).py))))

bench: $(READY)
	for name in $(BENCHES); do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.readme

# torch with torchvision, and Foveal on top, so that both sides have one torch; several GB.
$(PEERS_READY): pyproject.toml benchmarks/peers/constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --upgrade pip
	$(PEERS)/bin/pip install --quiet --constraint benchmarks/peers/constraints.txt torchvision --editable .
	touch $(PEERS_READY)

bench-peers: $(READY) $(PEERS_READY)
	$(BIN)/python -m benchmarks.peers $(ARGS)
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV) $(PEERS) build src/*.egg-info src/foveal/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each target sets up what it needs. `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready

.PHONY: setup demo test lint bench bench-peers clean

setup: $(READY)

# Pinned versions first, the package itself last, so that editing code never re-installs torch.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/foveal demo --out runs/demo

test: lint
	$(BIN)/python -m pytest

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
$(PEERS_READY): pyproject.toml benchmarks/peers/constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --upgrade pip
	$(PEERS)/bin/pip install --quiet --constraint benchmarks/peers/constraints.txt torchvision --editable .
	touch $(PEERS_READY)

bench-peers: $(READY) $(PEERS_READY)
	$(BIN)/python -m benchmarks.peers $(ARGS)
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV) $(PEERS) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

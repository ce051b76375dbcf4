# Everything works on a fresh machine: each target makes the virtual environment first.
#
#   make demo    fill sounds, solve problems on images, steer molecules: one report
#   make test    all tests, on two processes of one thread each
#   make portable  the tests that rest on rounding, with the plainest instruction set
#   make lint    ruff, and mypy on the installed package
#   make docs    the site, in site/
#   make gallery the pictures of docs/gallery.md, drawn again
#   make format  let ruff rewrite the layout
#   make clean   remove the virtual environment and all caches

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CHECK  := .cache/typecheck
TESTS  ?= tests

# What is imported is compiled once and kept, whatever the machine's habit: for every process that
# imports torch from its source takes five seconds more.
export PYTHONDONTWRITEBYTECODE :=

# Where the last digits decide: line searches, stopping tests, step sizes, batch invariance.
ROUNDING := tests/optimizers/test_optimizers.py tests/optimizers/test_optimizers_lbfgs.py \
    tests/methods/test_dflow.py tests/methods/test_dflow_laws.py tests/solvers/test_adaptive.py \
    tests/methods/test_optimal_control.py \
    tests/methods/test_flowgrad.py tests/laws/test_ragged.py

.PHONY: venv demo test portable lint style types installed docs gallery format clean

venv: $(STAMP)

# torch comes first and by its exact version: where pip is pointed at a CPU build, it is taken.
# azula comes without its requirements: it asks for torchvision, whose builds need a CUDA torch.
# Nothing is compiled ahead: of twenty thousand modules most are never imported.
$(STAMP): pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile torch==2.13.0
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q --no-compile --no-deps -c constraints.txt azula
	touch $@

demo: $(STAMP)
	$(BIN)/ctrlgen demo

test: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(BIN)/pytest -n 2 --dist worksteal $(TESTS)

# The switches of torch, MKL and oneDNN; a processor with AVX-512 would make others again.
portable: export OMP_NUM_THREADS := 1
portable: export ATEN_CPU_CAPABILITY := default
portable: export MKL_CBWR := COMPATIBLE
portable: export ONEDNN_MAX_CPU_ISA := SSE41
portable: $(STAMP)
	$(BIN)/pytest -n 2 --dist worksteal $(ROUNDING)

# The tree as it installs: every module under its import name, for tools that read and do not run.
installed: $(STAMP)
	rm -rf build $(CHECK)
	$(BIN)/python -m pip install -q --no-compile --no-deps --target $(CHECK) .

lint: style types

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) installed
	cd $(CHECK) && $(abspath $(BIN))/mypy --config-file $(abspath pyproject.toml) \
	    --cache-dir $(abspath .mypy_cache) -p ctrlgen

# In an environment of its own: what builds a site has no business beside torch.
docs: export NO_MKDOCS_2_WARNING := 1
docs: installed
	test -x .cache/docs/bin/python || $(PYTHON) -m venv .cache/docs
	.cache/docs/bin/pip install -q "mkdocs-material>=9.5" "mkdocstrings[python]>=0.27" ruff
	.cache/docs/bin/mkdocs build --strict

gallery: $(STAMP)
	$(BIN)/python docs/gallery

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

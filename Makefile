# Two commands are enough: `make demo` shows the thing, `make test` proves it. Both set up what they need.
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Two processes side by side. The one that is done first takes tests over from the other.
SIDE_BY_SIDE := -n 2 --dist worksteal
FAST := tests $(SIDE_BY_SIDE)
# Which of these belong together, and that the longest come first, is said in registry-test/conftest.py.
REAL := registry-test -n 2 --dist loadgroup --no-loadscope-reorder
CHECKED := oci_binpkg tests registry-test
MINIMUM := 90

# The tests start the command some hundred times: without its byte code each start would compile all of it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv parts demo docs test lint unit real nightly bench profile soak corpus mutations cost coverage proxy fuzz fuzz-commands sandbox clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## Create the environment in .venv (again only when pyproject.toml changes)

$(VENV)/.installed: pyproject.toml
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash registry-test/tools/make_venv.sh

parts: $(VENV)/.installed ## Install the real servers, engines and tools that the tests use (Debian, root)
	@$(BIN)/python registry-test/tools/install_parts.py

demo: ## Publish three small packages to a folder, install them elsewhere, run them there and as a container
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash registry-test/tools/make_venv.sh demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash registry-test/tools/demo.sh

docs: $(VENV)/.installed ## Build the documents as a web site into site-docs/; every link must lead somewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.installed ## Formatting, style, types, and the direction of imports
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.installed ## The fast tests: no server, no engine
	$(PYTEST) $(FAST)

real: parts ## The tests against real registries, engines and independent clients
	$(PYTEST) $(REAL)

bench: parts ## Measure every job beside other tools (BENCH="--only push-a" for some of it)
	$(BIN)/python registry-test/bench/run.py $(BENCH)
	$(BIN)/python registry-test/bench/run.py --documents

profile: parts ## Show where the time of each job goes
	$(BIN)/python registry-test/bench/profiling.py
nightly: parts ## What takes long: all examples of the properties, the whole walk of texts, every costly input, the soak
	HYPOTHESIS_PROFILE=nightly OCI_BINPKG_WALK=all $(PYTEST) $(FAST)
	HYPOTHESIS_PROFILE=nightly $(PYTEST) registry-test/test_kills.py registry-test/test_install.py registry-test/test_fuzz.py
	@$(MAKE) --no-print-directory cost soak sandbox

soak: parts ## Push 2,000 packages while one request of a hundred goes wrong (`make test`: 300)
	OCI_BINPKG_SOAK=2000 $(PYTEST) registry-test/test_load.py -k soak

corpus: parts ## Move more than 300 Debian packages, run all of their programs, and break 200 (`make test`: some twenty packages)
	OCI_BINPKG_CORPUS=whole nice -n 10 $(PYTEST) registry-test/test_moved_corpus.py

cost: parts ## Measure every input that was made to cost much: memory and CPU within the budget
	$(BIN)/python registry-test/tools/cost.py

mutations: parts ## Take behaviours out one by one, and see that tests fail
	$(BIN)/python registry-test/tools/mutations.py

coverage: $(VENV)/.installed ## The fast tests with a coverage report in htmlcov/
	@rm -f .coverage .coverage.*
	$(PYTEST) $(FAST) --cov --cov-report=
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --fail-under=$(MINIMUM)

proxy: $(VENV)/.installed ## A registry with another's quirks: PROFILE=ghcr UPSTREAM=http://127.0.0.1:5000 PORT=5001
	@cd registry-test && exec ../$(BIN)/python -m proxy $(if $(PROFILE),--profile $(PROFILE)) \
		$(if $(UPSTREAM),--upstream $(UPSTREAM)) $(if $(PORT),--port $(PORT))

fuzz: $(VENV)/.installed ## Fuzz each target in turn for SECONDS (60), or only TARGET=extractor|elf|macho|documents
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[fuzz]'
	@cd registry-test && for target in $(or $(TARGET),extractor elf macho documents); do \
		echo "== $$target"; ../$(BIN)/python -m fuzz $$target --seconds $(or $(SECONDS),60) || exit 1; done

fuzz-commands: $(VENV)/.installed ## Fuzz the whole command for SECONDS (600) from SEED; what is found goes to finds/
	@cd registry-test && ../$(BIN)/python -m command_fuzz --corpus --seconds $(or $(SECONDS),600) \
		--seed $(or $(SEED),$$RANDOM) --finds $(CURDIR)/finds

sandbox: $(VENV)/.installed ## 2,000 cases of a fixed seed and all that was found once: nothing may be found (`make test`: 500)
	@cd registry-test && ../$(BIN)/python -m command_fuzz --corpus --cases 2000 --seed 1

# Everything runs even when an earlier step fails; the last lines say how each step ended.
test: parts ## Lint and all tests, the real ones included (CI=true: with branch coverage)
	@BIN="$(BIN)" MAKE="$(MAKE)" FAST="$(FAST)" REAL="$(REAL)" MINIMUM="$(MINIMUM)" bash registry-test/tools/run_all.sh

clean: ## Remove the environment and everything that was made
	rm -rf $(VENV) build dist demo profile finds site-docs htmlcov .coverage .coverage.* *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

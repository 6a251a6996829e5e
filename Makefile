# `make suite` and `make test` set up .venv by themselves; nothing else needs to be installed but Python (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers/bin
ARGS ?=

# On Linux: freed tensors' memory is kept for the next step, in large pages (docs/speed.md).
suite full perf scaling: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=1073741824

.PHONY: suite test browser docs wheel stress full perf scaling verifiers lint format lock clean

suite: .venv/ready  ## run every suite this machine can run; leaves report bundles under reports/
	$(BIN)/python -m pytest -m suite -rs $(ARGS)

test: .venv/ready  ## run the unit tests
	$(BIN)/python -m pytest -n auto $(ARGS)

browser: .venv/ready  ## what report.html does in a headless Chromium: the one at hand, or Playwright's
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[browser]"
	command -v chromium > /dev/null || $(BIN)/python -m playwright install --with-deps chromium
	$(BIN)/python -m pytest -m browser $(ARGS)

docs: .venv/ready  ## the pages of docs/ as a site, every link checked
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	PYTHONPATH=. $(BIN)/python -m mkdocs build --strict

wheel: .venv/ready  ## a first study from the wheel in an empty environment; WHEEL_PYTHON=python3.12 takes another Python
	$(BIN)/python -m pytest -m wheel $(ARGS)

stress: .venv/ready  ## what takes an hour: many examples, kills, crowds, mutations of the code
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -n auto -m "not suite and not perf and not browser and not wheel" $(ARGS)
	$(BIN)/python tests/stress/kill.py --kills 30
	$(BIN)/python tests/stress/crowd.py --runs 20
	$(BIN)/python tests/stress/lose.py --workers 20 --schedulers 5
	$(BIN)/python tests/stress/mutate.py --lines 6

full: .venv/ready  ## the published studies at full scale on a CUDA device; interrupt it at will, the same command goes on
	$(BIN)/python -m pytest -m suite suites/test_mnist_emnist.py suites/test_cifar10_cifar100.py \
	  --robbench-download --robbench-update $(ARGS)

perf: .venv-peers/ready  ## how fast, beside other libraries; leaves tables and pictures under reports/perf
	mkdir -p .benchmarks
	$(PEERS)/python -m pytest -m perf suites/perf --benchmark-json .benchmarks/perf.json $(ARGS)
	$(PEERS)/python -m suites.perf.rendering .benchmarks/perf.json --output reports/perf

scaling: .venv/ready  ## how much faster the embedded suite is with two workers of one thread than with one
	$(BIN)/python -m suites.perf.scaling $(ARGS)

verifiers: .verifiers/vibecheck/ready .verifiers/neuralsat/ready  ## complete verifiers, an environment each (docs/bounds.md)

.verifiers/vibecheck/ready: PACKAGE := vibecheck-nn==1.1.0
.verifiers/neuralsat/ready: PACKAGE := neuralsat==0.2.17
.verifiers/%/ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGE)
	touch $@

lint: .venv/ready  ## style, types of the public API, and the layers contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv-peers/ready: GROUPS := --group peers
.venv/ready .venv-peers/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --constraint constraints.txt --editable ".[dev]" $(GROUPS)
	touch $@

lock: .venv/ready  ## renew constraints.txt from what is installed
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable > constraints.txt

clean:
	rm -rf .venv .venv-peers .verifiers .robbench .benchmarks .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis site

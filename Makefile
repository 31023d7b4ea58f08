# Two commands: `make demo` sets up and runs the main job, `make test` sets up and passes the tests.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The test runner; .ci/run measures coverage with it.
RUNNER ?= -m pytest
# TORCH=own: use the torch already in .venv, for example a CPU-only build; nothing of it is downloaded.
TORCH ?= locked
LOCKED := $(if $(filter own,$(TORCH)),.venv/requirements-own-torch.lock,requirements.lock)

.PHONY: setup demo test images lint format types check bench lab recipe controls crash clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@echo "Setting up .venv: about 2.5 GB to download and 5 GB on disk, a few minutes (torch is most of it; README: Small installs)"
	@$(PYTHON) -c 'import sys; sys.exit("iccm needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@awk '/^[^ #]/ { own = ($$0 ~ /^(torch|triton|nvidia-[^=]*|cuda-[^=]*)==/) } !own' requirements.lock > .venv/requirements-own-torch.lock
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(LOCKED)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: setup
	$(BIN)/iccm demo

test: setup
	$(BIN)/python $(RUNNER)

# Local images of Kafka and PostgreSQL for the container tests, where none can be pulled (Debian, as root).
images: setup
	$(BIN)/python -m tests.containers.images.build

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

check: lint types
	$(BIN)/python -m schemas check

bench: setup
	$(BIN)/python -m tests.bench

lab: setup
	$(BIN)/python -m trainer pretrain

recipe: setup
	$(BIN)/python -m tests.bench.recipe

controls: setup
	$(BIN)/python -m tests.bench.controls

crash: setup
	$(BIN)/python -m tests.crash

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis

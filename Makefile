# make demo   install, train MetaDiff on glyphs, write a head for a folder of pictures, compare it with baselines
# make test   install what the tests need and run them
# make check  lint, types, documentation and tests
PYTHON ?= python3
BIN := .venv/bin
STEPS ?= 400
PRETRAINING ?= 500
EPISODES ?= 600

.PHONY: demo test lint types docs check clean

demo: .venv/installed
	$(BIN)/weightgen train recipes/metadiff.yaml \
		training.steps=$(STEPS) backbone.pretraining.steps=$(PRETRAINING) evaluation.episodes=$(EPISODES)
	rm -rf demo
	$(BIN)/weightgen data sample glyphs --ways 5 --shots 5 --queries 10 --out demo
	$(BIN)/weightgen generate --support demo/support --out demo/head
	$(BIN)/weightgen predict --head demo/head demo/query

test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test
	$(BIN)/mypy weightgen cli

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

check: lint types docs test

clean:
	rm -rf .venv demo build *.egg-info

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

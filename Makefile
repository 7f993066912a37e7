# make demo   install, write a head for photographs with nothing trained; train MetaDiff on glyphs, compare it
# make test   install what the tests need and run them
# make bench  time everything beside its peers: docs/results/performance.md
# make check  lint, types, documentation and tests
PYTHON ?= python3
BIN := .venv/bin
STEPS ?= 200
PRETRAINING ?= 300
EPISODES ?= 300

.PHONY: demo test lint types docs check bench clean

demo: .venv/installed
	rm -rf demo
	$(BIN)/python examples/photographs.py demo/photographs
	$(BIN)/weightgen generate --generator universal --support demo/photographs/support --out demo/photographs/head
	$(BIN)/weightgen predict --head demo/photographs/head demo/photographs/query
	$(BIN)/weightgen train recipes/metadiff.yaml \
		training.steps=$(STEPS) backbone.pretraining.steps=$(PRETRAINING) evaluation.episodes=$(EPISODES)
	$(BIN)/weightgen data sample glyphs --ways 5 --shots 5 --queries 10 --out demo/glyphs
	$(BIN)/weightgen generate --support demo/glyphs/support --out demo/glyphs/head
	$(BIN)/weightgen predict --head demo/glyphs/head demo/glyphs/query

test: .venv/installed-test
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test
	$(BIN)/mypy weightgen cli

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet --site-dir build/site

check: lint types docs test

bench: .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable '.[peers]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/performance.py

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

# make            lists the targets
# make install    makes .venv with all that is needed; the others do so themselves

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# pip compiles on one core.
PIP_HOW := --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install run test test-all check fix bench study clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv and install everything

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_HOW) --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # some packages hold files for other Pythons
	@touch $(STAMP)

run: $(STAMP) ## compare eight systems on the built-in reviews (runs/quickstart/report.html), explain an answer
	$(BIN)/bertcnn compare --config configs/quickstart.toml --output runs/quickstart
	@printf '%s\n' 'The movie was not bad at all.' 'I expected more for the price.' \
	  'Couldn'"'"'t be happier with the service!' 'Great, it broke on the first day.' \
	  | $(BIN)/bertcnn predict runs/quickstart/model --table
	@echo 'The movie was not bad at all.' | $(BIN)/bertcnn explain runs/quickstart/model-cnn

# Two processes of one thread each: of two threads each they would slow each other down.
test: $(STAMP) ## the tests, some ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered

test-all: $(STAMP) ## the slow tests and those on real data (BERTCNN_DATA) as well
	$(BIN)/python -m pytest -m ''

check: $(STAMP) ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## speed against rivals, and accuracy, on real data (BERTCNN_DATA); hours
	$(BIN)/python -m pip install $(PIP_HOW) --editable '.[bench]'
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/accuracy.py cr-frozen cr-finetune sst2 trec6 banking77 amazon goemotions --show-test
	$(BIN)/python bench/long_texts.py
	$(BIN)/python bench/depths.py prepare
	$(BIN)/python bench/depths.py measure
	$(BIN)/python bench/faithfulness.py sst2-frozen --texts 200 --slow-texts 25
	$(BIN)/python bench/faithfulness.py amazon-frozen --texts 200 --words 50 --slow-texts 10
	$(BIN)/python bench/faithfulness.py sst2-finetuned --texts 200 --slow-texts 0
	$(BIN)/python bench/faithfulness.py --page
	$(BIN)/python bench/audit.py sst2-frozen sst2-finetuned cr-frozen amazon-frozen --texts 500

study: $(STAMP) ## the comparison on real data (BERTCNN_DATA) of docs/results.md; hours, resumed where it was
	$(BIN)/bertcnn compare --config configs/kim2014.toml --output runs/kim2014
	$(BIN)/bertcnn compare --config configs/finetuned.toml --output runs/finetuned

clean: ## remove what was made
	rm -rf $(VENV) runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

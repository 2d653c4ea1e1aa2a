# Everything a newcomer needs, with only python3 (3.11 or newer, with venv) and make:
#
#   make quickstart   train, fine-tune, export and run a small net
#   make test         the test suite
#   make help         the rest
#
# The first call makes a virtual environment in .venv and installs netc and its dependencies there;
# a stamp file remembers that, until pyproject.toml changes.

PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python
NETC    = $(VENV)/bin/netc
DIGITS  = build/digits

PIP     = $(RUN) -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint format clean distclean

help:
	@echo 'make quickstart   train a digits net, fine-tune it, export it to ONNX, run it there'
	@echo 'make test         run the tests         (PYTEST_ARGS="-k pooling" narrows it)'
	@echo 'make lint         ruff and mypy'
	@echo 'make format       rewrite the sources as ruff format wants them'
	@echo 'make clean        remove what was built or trained'
	@echo 'make distclean    the same, and the virtual environment'

# -- environment ------------------------------------------------------------------------------

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'netc needs Python 3.11 or newer, and "$(PYTHON)" is' \
	        "$$($(PYTHON) --version 2>&1)."; \
	    echo 'Name another one:  make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; } >&2
	@$(PYTHON) -m venv $(VENV) || { \
	    echo 'Could not make a virtual environment with "$(PYTHON) -m venv".'; \
	    echo 'On Debian and Ubuntu:  apt install python3-venv'; rm -rf $(VENV); exit 1; } >&2
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo 'Installing netc and its dependencies into $(VENV) (only this first time)'
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	@echo 'Installing netc, its dependencies and the test and lint tools into $(VENV) (only this first time)'
	@$(PIP) install --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed

# -- the tour ---------------------------------------------------------------------------------

quickstart: $(VENV)/.installed
	$(RUN) tools/make_digits.py $(DIGITS)
	@printf '\n== A base net for the digits 0 to 4\n\n'
	$(NETC) train -solver solvers/digits_0_4.yaml
	@printf '\n== Fine-tuned for 5 to 9: the same net, its last layer renamed\n\n'
	$(NETC) train -solver solvers/digits_5_9.yaml -weights $(DIGITS)/digits_0_4_iter_300.caffemodel
	@printf '\n== All ten digits\n\n'
	$(NETC) train -solver solvers/digits.yaml
	@printf '\n== Exported to ONNX, compared with netc there, and run on the test images\n\n'
	$(NETC) export -model zoo/digits/digits.yaml -weights $(DIGITS)/digits_iter_900.caffemodel \
	    -output $(DIGITS)/digits.onnx
	$(RUN) tools/quickstart_predict.py $(DIGITS)/digits.onnx -at_least 98

# -- checks -----------------------------------------------------------------------------------

test: $(VENV)/.installed-dev
	@$(RUN) -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# -- cleaning ---------------------------------------------------------------------------------

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) *.egg-info

# Two commands for a fresh machine with Python >= 3.11: `make quickstart` and `make test`. Each sets up its own .venv.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
# Two more than there are cores: some tests wait for processes of their own, or for the disk.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)

.PHONY: quickstart test test-peers lint clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/python experiments/quickstart/run.py

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest tests --ignore=tests/peers -n $(WORKERS) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

test-peers: $(PEERS)/.installed
	$(PEERS)/bin/python -m pytest tests/peers

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

# A folder without the stamp is a half-made environment, so it is made again.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e '.[dev]'
	touch $@

$(PEERS)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -e '.[dev,peers]'
	# Its client needs `requests` alone; its own pins (numpy<2, open_clip<3) fit nothing here.
	$(PEERS)/bin/python -m pip install --quiet --no-deps 'clip-retrieval==2.45.0'
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) runs

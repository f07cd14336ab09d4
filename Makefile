# herenow: `make run` sets everything up and runs it; `make test` sets everything up and passes all checks.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PAGE   := examples/quickstart

# The tests start hundreds of Pythons, each of which would else compile all of ours anew where the machine says so.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install run run-cluster test lint types unit pure servers nodes rest soak soak-surroundings soak-cluster simulate fuzz check-proxy check-clients check-renewal bench bench-check bench-small profile document clean

install: $(VENV)/.installed $(VENV)/.node $(PAGE)/vendor/socket.io.esm.min.js

# pip's own resolver over the ranges of pyproject.toml; --group reads its dependency groups (pip 25.1 and later).
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "herenow needs Python 3.11 or later (set PYTHON=/path/to/python3.11)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group test
	touch $@

# Node runs the stock JavaScript client in the tests. Where none is on the PATH, PyPI's wheel brings one.
$(VENV)/.node: tests/node/package-lock.json $(VENV)/.installed
	command -v node >/dev/null && command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --group node
	cd tests/node && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --no-audit --no-fund --loglevel=error
	touch $@

# The page of the first try loads nothing from elsewhere: its Socket.IO client is the one that the tests use.
$(PAGE)/vendor/socket.io.esm.min.js: $(VENV)/.node
	mkdir -p $(@D)
	cp tests/node/node_modules/socket.io-client/dist/$(@F) $@

run: install
	$(BIN)/herenow serve --dev --page $(PAGE)

# Three nodes and a Redis on this machine. Ctrl-C ends all of it.
run-cluster: install
	$(BIN)/python examples/cluster.py

# The parts of the first line fill both cores between them; whole servers, which are held to times, have them alone.
test: install
	@$(MAKE) -j4 types pure rest nodes
	@$(MAKE) lint servers

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	nice $(BIN)/mypy

# What must be covered whole, in one process (the random histories add nothing there, and take twice as long); whole servers;
# nodes of a cluster, who mostly wait for each other; all the rest.
PURE = tests/registry tests/socketio_server/test_packets.py \
       tests/socketio_server/test_session.py tests/socketio_server/test_heartbeat.py tests/socketio_server/test_message.py
CONTRACT = tests/contract/test_registry.py
HISTORIES = tests/registry/test_rules_history.py tests/registry/test_views.py
SERVERS = tests/cli tests/e2e tests/security
NODES = tests/cluster
PYTEST = PATH="$$PATH:$(CURDIR)/$(BIN)" $(BIN)/python -m pytest -q -p no:schemathesis --dist worksteal

unit: pure rest nodes servers

pure:
	nice $(BIN)/coverage run -m pytest -q -p no:schemathesis $(PURE) $(addprefix --ignore=,$(HISTORIES))
	nice $(BIN)/coverage run -a -m pytest -q -p no:schemathesis $(CONTRACT) -k 'not redis and not valkey'
	$(BIN)/coverage report --fail-under=100 --omit='src/herenow/registry/redis/*' --include='src/herenow/registry/*,src/herenow/socketio_server/packets.py,src/herenow/socketio_server/engineio/session.py,src/herenow/socketio_server/engineio/heartbeat.py,src/herenow/socketio_server/message.py'

servers:
	$(PYTEST) -n 5 $(SERVERS)

nodes:
	$(PYTEST) -n 4 $(NODES)

rest:
	$(PYTEST) -n 4 tests $(HISTORIES) $(addprefix --ignore=,$(PURE) $(SERVERS) $(NODES))

# The storms at full length, the floods and the attacks at full size, some twenty-five minutes; then half an hour in which all that
# surrounds a server fails at random (as root, for a disk that is full). What they saw goes into docs/reliability.md.
soak: install
	cd tests && PATH="$$PATH:$(CURDIR)/$(BIN)" PYTHONPATH=. ../$(BIN)/python -m e2e.soak
	$(MAKE) soak-surroundings

# SOAK=--seconds=300, --seed=2, --only=sqlite and the like go to the program.
soak-surroundings: install
	cd tests && PATH="$$PATH:$(CURDIR)/$(BIN)" PYTHONPATH=. ../$(BIN)/python -m e2e.surroundings $(SOAK)

# Storms of a thousand clients over three nodes, ten seeds, some thirty-five minutes. STORM=--users=100 and the like go to the program.
soak-cluster: install
	cd tests && PATH="$$PATH:$(CURDIR)/$(BIN)" PYTHONPATH=. ../$(BIN)/python -m cluster.storms $(STORM)

# Ten thousand worlds of three nodes in which all goes wrong at random, in a time of their own, some twenty minutes;
# SEED=7 make simulate tells what happens in one of them. SIMULATE=--seeds=500 and the like go to the program.
simulate: install
	cd tests && PYTHONPATH=. ../$(BIN)/python -m simulation $(SIMULATE)

# Ten renewals under a thousand clients, of two kinds. RENEWALS=--users=100 and the like go to the program.
check-renewal: install
	cd tests && PATH="$$PATH:$(CURDIR)/$(BIN)" PYTHONPATH=. ../$(BIN)/python -m e2e.renewals $(RENEWALS)

# The nginx of docs/operations.md before a real server, where nginx is installed.
check-proxy: install
	cd tests && PATH="$$PATH:$(CURDIR)/$(BIN)" PYTHONPATH=. ../$(BIN)/python -m e2e.proxy

# How foreign clients leave and come back, for the table of docs/wire.md. Java's is left out where there is no Java.
check-clients: install
	! command -v java >/dev/null || mvn -q -f tests/java/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/build/java
	cd tests && PATH="$$PATH:$(CURDIR)/$(BIN)" PYTHONPATH=. ../$(BIN)/python -m e2e.goodbyes

$(VENV)/.fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group fuzz
	touch $@

# A minute of what strangers may send, led by what of our code it reaches. What it finds stays in .fuzz/.
SECONDS ?= 60
fuzz: $(VENV)/.fuzz
	mkdir -p .fuzz/corpus
	cd .fuzz && PYTHONPATH=$(CURDIR)/tests $(CURDIR)/$(BIN)/python -m fuzz corpus $(CURDIR)/tests/fuzz/seeds \
		-max_total_time=$(SECONDS) -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0

$(VENV)/.bench: pyproject.toml $(VENV)/.installed benchmarks/peers/package-lock.json
	$(BIN)/python -m pip install --quiet --group bench
	command -v node >/dev/null && command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --group node
	cd benchmarks/peers && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --no-audit --no-fund --loglevel=error
	touch $@

# All suites, under 15 minutes, or one: SUITE=fanout|connect|memory|storm|latency|store|restart|cluster|curves (cluster: all five of it). Then the plots, and the
# figures in the pages. BENCH=--repeats=5 and the like go to the program.
bench: install $(VENV)/.bench
	PATH="$$PATH:$(CURDIR)/$(BIN)" $(BIN)/python -m benchmarks $(SUITE) $(BENCH)
	$(BIN)/python -m benchmarks.document

# Whether everything works, in some five minutes; the figures mean nothing and go elsewhere.
bench-small: install $(VENV)/.bench
	PATH="$$PATH:$(CURDIR)/$(BIN)" $(BIN)/python -m benchmarks $(SUITE) --small --into build/bench

# Steps, not seconds: nothing has become dearer than recorded in benchmarks/results/check.json, by more than a tenth.
bench-check: install
	PYTHONHASHSEED=0 $(BIN)/python -m benchmarks.check $(BENCH)

# Where the time goes: flame graphs and tables, benchmarks/results/profile-*. WHAT=fanout|connect|storm|latency for one.
profile: install $(VENV)/.bench
	PATH="$$PATH:$(CURDIR)/$(BIN)" $(BIN)/python -m benchmarks.profiling $(WHAT)
	$(BIN)/python -m benchmarks.document

document: install $(VENV)/.bench
	$(BIN)/python -m benchmarks.document

clean:
	rm -rf $(VENV) .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage tests/node/node_modules benchmarks/peers/node_modules $(PAGE)/vendor
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# acktrail: everything that a person or CI does starts here. `make` alone lists it.

SHELL := /bin/bash
CARGO ?= cargo
WORK := $(or $(ACKTRAIL_WORK),$(CURDIR)/.work)
PYTHON := $(WORK)/venv/bin/python
# Where deps.sh puts Rust and Go if the machine has none that is new enough.
export PATH := $(WORK)/rust/bin:$(WORK)/go/bin:$(PATH)

.PHONY: help deps deps-build deps-lint deps-demo deps-demo-kafka build demo demo-kafka test test-core truth lint format bench clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

deps: ## install what building, demonstrating and testing needs (Debian 12; system packages as root, the rest in .work/)
	@scripts/deps.sh test

deps-build:
	@scripts/deps.sh build

deps-lint:
	@scripts/deps.sh lint

deps-demo:
	@scripts/deps.sh demo

deps-demo-kafka:
	@scripts/deps.sh demo-kafka

build: deps-build ## build target/release/acktrail
	@$(CARGO) build --release --locked

demo: deps-demo build ## follow a RabbitMQ of its own for some seconds: success, retries, dead letters (root, under a minute)
	@$(PYTHON) demo/demo.py rabbitmq

demo-kafka: deps-demo-kafka build ## the same with a Kafka of its own: two groups, a crash, a retry topic, a dead-letter topic
	@$(PYTHON) demo/demo.py kafka

test: ## install, check and test everything, as CI does (root; at most 15 minutes on a new machine)
	@scripts/test.sh

test-core: ## the pure core only: no root, no clang, seconds
	@$(CARGO) test --no-default-features --locked

truth: deps build ## only the truth tests: real brokers, real clients, every message (ONLY=regex, BROKER=3.10 or 4)
	@cd tests/brokers && $(PYTHON) -m truth.run $(if $(ONLY),--only '$(ONLY)') $(if $(BROKER),--broker $(BROKER))

lint: deps-lint ## formatting and warnings, changes nothing
	@scripts/test.sh lint

format: ## format Rust and C
	@$(CARGO) fmt
	@clang-format -i bpf/*.[ch]

bench: deps build ## measure cost and throughput with the brokers' load generators, write docs/performance.md (root, takes an hour; ONLY=rabbitmq or kafka)
	@$(PYTHON) benches/bench.py $(ONLY)

clean: ## remove what was built and downloaded here
	@$(CARGO) clean
	@rm -rf --one-file-system "$(WORK)"

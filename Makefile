# What a newcomer needs: `make run` for a sandbox to ssh into, `make test` before a change is sent.

CARGO ?= cargo
AGENT_TARGET := x86_64-unknown-linux-gnu
RELEASE := target/release
AGENT := target/agent/$(AGENT_TARGET)/agent/sandgate-agent

UI_SOURCES := $(shell find ui/src ui/index.html ui/package-lock.json ui/vite.config.ts ui/tsconfig.json -type f)

.PHONY: all build run test soak bench fmt lint prerequisites clean-test

all: build

# The gateway, the file servers as programs of their own, and beside them the static agent that goes into every sandbox. No musl
# target is needed: glibc links statically because the agent does its own passwd lookups.
build: prerequisites ui/dist/index.html
	$(CARGO) build --release --locked -p sandgate -p sandgate-sftp -p sandgate-scp
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --locked --profile agent --target $(AGENT_TARGET) \
		-p sandgate-agent --target-dir target/agent
	install -m 0755 $(AGENT) $(RELEASE)/sandgate-agent

# The dashboard, which becomes part of the gateway.
ui/dist/index.html: $(UI_SOURCES)
	npm --prefix ui ci --no-audit --no-fund --silent
	npm --prefix ui run build --silent
	touch $@

# libseccomp's headers, a C compiler and pkg-config; installed for root, named for everybody else.
prerequisites:
	@.ci/prerequisites

run: build
	$(RELEASE)/sandgate up

test:
	.ci/suite

# Everything that forwards, at once, for SOAK (15m unless said: `SOAK=24h make soak`); ends with counts.
soak: build
	SANDGATE_BIN=$(CURDIR)/$(RELEASE)/sandgate $(CARGO) run --release --locked -p sandgate-tests --bin sandgate-soak

bench: build
	$(CARGO) run --release --locked -p sandgate-bench

fmt:
	$(CARGO) fmt --all

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

# Logs and scratch directories of test and bench runs. It ends no process.
clean-test:
	rm -rf target/test-logs target/test-skips.txt
	find /tmp -maxdepth 1 -user "$$(id -un)" \( -name 'sgc-*' -o -name 'sgb-*' \) -exec rm -rf {} +

# Everything that is done with this project, from a fresh Debian or Ubuntu machine with rustup, git and make.
# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Several targets install packages, and there is one package database.
.NOTPARALLEL:

CARGO ?= cargo
PREFIX ?= /usr/local
binary := target/release/ferrovirt
fixtures := target/fixtures
completion := crates/ferrovirt/src/commands/completion
demo_image := localhost/demo/kernel:latest

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build fixtures ## Boot Debian's cloud kernel out of an image that Ferrovirt builds
	@scripts/install-tools.sh run
	$(binary) image build --tag $(demo_image) --kernel $(fixtures)/vmlinuz --initrd $(fixtures)/initrd
	$(binary) run -f demo/vm.yaml

.PHONY: build
build: ## Build the release binary, target/release/ferrovirt
	@scripts/install-tools.sh build
	$(CARGO) build --quiet --release --locked --package ferrovirt

.PHONY: install
install: build ## Install the binary, its manual and what shells need under PREFIX (/usr/local)
	install -D -m 0755 $(binary) $(DESTDIR)$(PREFIX)/bin/ferrovirt
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man1 contrib/man/*.1
	install -D -m 0644 $(completion)/ferrovirt.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ferrovirt
	install -D -m 0644 $(completion)/ferrovirt.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_ferrovirt
	install -D -m 0644 $(completion)/ferrovirt.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/ferrovirt.fish

.PHONY: fixtures
fixtures: ## Unpack two kernels and make initrds in target/fixtures
	@scripts/install-tools.sh demo
	@scripts/fixtures.sh

.PHONY: test
test: tools lint fixtures ## Install what is missing, then formatting, lints, documentation and every test
	$(CARGO) test --workspace --locked --doc --quiet
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --workspace --locked --no-fail-fast; \
	else \
	    set -x; $(CARGO) test --workspace --locked --no-fail-fast --lib --bins --examples --tests; \
	fi

.PHONY: check
check: lint ## What can be said without tools, kernels or a guest: formatting, lints, documentation, library tests
	$(CARGO) test --workspace --locked --lib --bins --quiet

.PHONY: lint
lint: ## Formatting, clippy and documentation, warnings denied
	@scripts/install-tools.sh build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --locked

.PHONY: bench
bench: tools build fixtures ## Measure the figures that this project promises; fails when one is missed
	@scripts/install-tools.sh bench
	@# Gigabytes of images: not into a /tmp that may be memory.
	TMPDIR=/var/tmp $(CARGO) bench --quiet --locked --package ferrovirt --bench figures --bench apiserver --bench lifecycle --bench access --no-fail-fast

.PHONY: soak
soak: tools fuzz ## The long forms of tests: 300 kills, 2,000 power failures, 200 rounds of chaos, two minutes of stress, fuzzing, schemathesis
	@scripts/install-tools.sh soak
	FERROVIRT_TEST_KILLS=300 FERROVIRT_TEST_POWER_FAILURES=2000 FERROVIRT_TEST_STRESS_SECONDS=120 \
	    $(CARGO) test --locked --package ferrovirt --test api -- --nocapture --test-threads=1 crash:: power:: stress::
	FERROVIRT_TEST_CHAOS_ROUNDS=200 \
	    $(CARGO) test --locked --package ferrovirt --test lifecycle -- --nocapture --test-threads=1 chaos::
	$(CARGO) build --quiet --locked --package ferrovirt
	scripts/schemathesis.sh target/debug/ferrovirt 60

.PHONY: fuzz
fuzz: ## Run every fuzz target for 60 seconds
	@scripts/install-tools.sh fuzz
	CARGO="$(CARGO)" scripts/fuzz.sh 60

.PHONY: tools
tools: ## Install the Debian packages that the tests need
	@scripts/install-tools.sh test
	@scripts/old-kubectl.sh

.PHONY: clean
clean: ## Remove everything that was built
	$(CARGO) clean

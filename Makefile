# `make test` is everything, on a bare Debian 12 with Rust: it installs what is missing.

CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

FUZZ_SECONDS ?= 60

.PHONY: test tools format lint unit doc browser packages bench-smoke release deb demo bench fuzz deny clean

test: tools format lint unit doc browser packages bench-smoke
	@echo "everything passed"

# The real programs the tests run against: sites in PHP, Node and Python, four proxies, JOSE
# libraries, and a browser.
tools:
	sh tests/tools.sh

format:
	$(CARGO) fmt --check

# With everything, and with nothing that can be left out.
# The lock of fuzz/ goes with the program's, or nobody can build the targets from it.
lint:
	$(CARGO) clippy --locked --all-targets --features benching -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	$(CARGO) metadata --locked --quiet --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null

unit:
	$(CARGO) test --locked

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

# Chromium, the size of a phone and of a desk, logs in through the demo. Screenshots: artifacts/
browser:
	$(CARGO) build --locked
	cd tests/browser && npm ci --no-audit --no-fund
	node tests/browser/demo.mjs target/debug/wxgate artifacts
	node tests/browser/wechat.mjs target/debug/wxgate artifacts
	node tests/browser/status.mjs target/debug/wxgate artifacts
	node tests/browser/broker.mjs target/debug/wxgate artifacts

# What is handed to operators: the .deb is built, installed, upgraded and purged; Kubernetes' own
# schemas judge the manifests; a Prometheus asks every query of the dashboard and the alerts. With the program of the tests, which is there already.
packages:
	$(CARGO) build --locked
	sh tests/packages/deb.sh target/debug/wxgate
	tests/packages/venv/bin/python tests/packages/kubernetes.py target/debug/wxgate
	tests/packages/venv/bin/python tests/packages/observability.py target/debug/wxgate

# The program as it is shipped, built twice: the second time for what it did in between.
# target/shipped/wxgate
release:
	CARGO="$(CARGO)" sh bench/release.sh

# target/deb/wxgate_VERSION_ARCHITECTURE.deb
deb: release
	sh deploy/deb/build.sh target/shipped/wxgate target/deb

# The gateway beside nginx and HAProxy from the distribution, each figure beside its goal, on this
# machine; docs/PERFORMANCE.md. Some rows only: bench/bench.py -h
bench: release
	python3 bench/bench.py

# Whether the benchmark and the training still run and everybody in it does the work. Its figures mean
# nothing.
bench-smoke:
	$(CARGO) build --locked
	python3 bench/bench.py --smoke --wxgate target/debug/wxgate
	python3 bench/train.py target/debug/wxgate

demo:
	$(CARGO) run --release -- demo

# Every fuzz target for so many seconds. Needs a nightly compiler; see deploy/SECURITY.md.
fuzz:
	sh fuzz/run.sh $(FUZZ_SECONDS)

# Licences, bans, sources and advisories of every dependency. Building cargo-deny takes minutes, so
# it is not part of `make test`, where tests/supply.rs looks at what can be seen without it.
deny:
	command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked
	cargo deny --locked check --hide-inclusion-graph licenses bans sources
	if cargo deny fetch db; then \
		cargo deny --locked check --hide-inclusion-graph advisories; \
	else \
		echo "advisories NOT checked: there is no way to their database" >&2; \
	fi

clean:
	$(CARGO) clean
	rm -rf artifacts tests/browser/node_modules tests/proof/node_modules tests/proof/venv tests/api/venv tests/packages/venv tests/proxies/venv tests/packages/promtool

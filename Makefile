# `make test` is everything, on a bare Debian 12 with Rust: it installs what is missing.

CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

.PHONY: test tools format lint unit doc browser demo clean

test: tools format lint unit doc browser
	@echo "everything passed"

# The real programs the tests run against: sites in PHP, Node and Python, three proxies, JOSE
# libraries, and a browser.
tools:
	sh tests/tools.sh

format:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --locked --all-targets -- -D warnings

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

demo:
	$(CARGO) run --release -- demo

clean:
	$(CARGO) clean
	rm -rf artifacts tests/browser/node_modules tests/proof/node_modules tests/proof/venv

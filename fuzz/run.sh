#!/bin/sh
# Runs every fuzz target for so many seconds: sh fuzz/run.sh [SECONDS [TARGET...]]
# What is found on the way is kept in fuzz/corpus, which is not committed; a crash is written to
# fuzz/artifacts and ends the run.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -eq 0 ] || shift

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal" >&2
    exit 1
fi
if ! command -v c++ >/dev/null 2>&1; then
    echo "fuzzing needs a C++ compiler for libFuzzer: apt-get install g++" >&2
    exit 1
fi
if ! command -v cargo-fuzz >/dev/null 2>&1; then
    cargo +nightly install cargo-fuzz --locked
fi

[ $# -gt 0 ] || set -- $(cargo +nightly fuzz list --fuzz-dir fuzz)
for target; do
    mkdir -p "fuzz/corpus/$target"
    echo "== $target, $seconds s"
    # The gateway forbids unsafe code, so what is looked for are panics, overflows, hangs and
    # promises broken: the address sanitizer would only make that slower.
    cargo +nightly fuzz run --fuzz-dir fuzz --sanitizer none "$target" \
        "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1
done

#!/usr/bin/env bash
# Runs every fuzz target of fuzz/ for a while.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]       60 seconds each, all targets
#
# Coverage comes from LLVM's own instrumentation, which a stable compiler has too; libFuzzer is compiled by g++. What was
# found interesting stays in fuzz/corpus; an input that failed is in fuzz/artifacts, and
# `fuzz/target/…/release/TARGET FILE` repeats it.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-60}
targets=("${@:2}")
if [[ ${#targets[@]} -eq 0 ]]; then
    for source in targets/*.rs; do
        source=${source##*/}
        targets+=("${source%.rs}")
    done
fi

# With a target of its own, so that build scripts and macros are not instrumented.
triple=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing"
${CARGO:-cargo} build --quiet --release --locked --target "$triple"

for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "fuzz: $target for $seconds s" >&2
    log=$(mktemp)
    if ! "target/$triple/release/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -max_len=4096 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target" 2>"$log"; then
        tail -40 "$log" >&2
        echo "error: $target failed; the input is in fuzz/artifacts/$target" >&2
        exit 1
    fi
    sed -n 's/^stat::number_of_executed_units: */  inputs: /p; s/^stat::peak_rss_mb: */  peak memory, MiB: /p' "$log" >&2
    rm "$log"
done

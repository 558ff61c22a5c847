#!/usr/bin/env bash
# Runs the benchmarks that match $1, $2 times each, and prints the medians. The raw numbers go to
# .cache/bench/COMMIT.txt; compare two such files with: go tool -modfile=tools/go.mod benchstat OLD NEW
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bench=$1 count=$2

mapfile -t packages < <(git grep -l --untracked -E -e '^func Benchmark' -- '*_test.go' | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
((${#packages[@]})) || { echo "bench: no benchmark found" >&2; exit 1; }

mkdir -p .cache/bench
raw=.cache/bench/$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo -dirty).txt
# One package at a time: two benchmarks at once would measure each other.
go test -p 1 -run '^$' -bench "$bench" -benchmem -count "$count" -timeout 2h "${packages[@]}" | tee "$raw"
echo
go tool -modfile=tools/go.mod benchstat "$raw"
echo "bench: raw numbers in $raw"

#!/usr/bin/env bash
# Fuzzes every target of the module for the time given as $1 (20s unless told), one after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fuzztime=${1:-20s}

mapfile -t targets < <(git grep --untracked -o -E -e '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sort)
((${#targets[@]})) || { echo "fuzz: no target found" >&2; exit 1; }

for target in "${targets[@]}"; do
	IFS=: read -r file name <<<"$target"
	name=${name#func } package=./$(dirname "$file")
	echo "fuzz: $name in $package for $fuzztime"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$package"
done

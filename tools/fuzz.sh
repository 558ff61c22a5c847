#!/usr/bin/env bash
# Fuzzes every target of the module for the time given as $1 (20s unless told), one after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fuzztime=${1:-20s}

mapfile -t targets < <(git grep --untracked -o -E -e '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sort)
((${#targets[@]})) || { echo "fuzz: no target found" >&2; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
	IFS=: read -r file name <<<"$target"
	name=${name#func } package=./$(dirname "$file")
	echo "fuzz: $name in $package for $fuzztime"
	# Bounded minimising: by default it can eat the whole time of a slow target.
	if ! go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" -fuzzminimizetime 200x "$package" 2>&1 | tee "$log"; then
		# Go ends a fuzz run that was busy at its deadline as if it had failed (golang/go#75804); a real finding names its input.
		if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
			echo "fuzz: $name was busy when its time ended; nothing was found"
			continue
		fi
		exit 1
	fi
done

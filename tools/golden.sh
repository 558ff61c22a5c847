#!/usr/bin/env bash
# Runs the tests of each package that keeps golden files or scenarios with the flag that rewrites them:
# -update where the package's tests define it, -rewrite where they use datadriven.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages() { # the packages whose tests contain $1
	git grep -l --untracked -e "$1" -- '*_test.go' | xargs -r -n1 dirname | sort -u
}

run() { # flag, packages
	local flag=$1 package
	shift
	for package in "$@"; do
		go test -count=1 "./$package" "$flag"
	done
}

mapfile -t update < <(packages 'flag\.Bool("update"')
mapfile -t rewrite < <(packages '"github.com/cockroachdb/datadriven"')
((${#update[@]} + ${#rewrite[@]})) || { echo "golden: no package keeps golden files" >&2; exit 1; }
run -update "${update[@]}"
run -rewrite "${rewrite[@]}"

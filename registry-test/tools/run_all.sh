#!/usr/bin/env bash
# Lint, the fast tests, the tests against real parts, and with CI or COVERAGE set the branch coverage of both together,
# which takes half as long again. Every step runs, whatever the one before said; the closing lines say how each ended,
# and the exit status is that of the first that failed.
set -uo pipefail
cd "$(dirname "$0")/../.."

status=0
summary=()
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

step() { # step NAME COMMAND...: run it, show its output, remember its last line
    local name=$1 code=0
    shift
    echo "== $name"
    "$@" 2>&1 | tee "$logs/$name" || code=$?
    summary+=("$name: $([ "$code" = 0 ] && echo passed || echo "FAILED ($code)"): $(tail -n 1 "$logs/$name")")
    if [ "$status" = 0 ]; then status=$code; fi
}

first=() more=()
if [ -n "${CI:-}${COVERAGE:-}" ]; then
    first=(--cov --cov-report=)
    more=(--cov --cov-append --cov-report=)
    rm -f .coverage .coverage.*
fi
step lint "$MAKE" --no-print-directory lint
# shellcheck disable=SC2086 # FAST is a list of arguments
step fast "$BIN/python" -m pytest $FAST "${first[@]}"
# shellcheck disable=SC2086 # and so is REAL
step real "$BIN/python" -m pytest $REAL "${more[@]}"
[ ${#first[@]} = 0 ] || step coverage "$BIN/coverage" report --skip-covered --fail-under="$MINIMUM"

echo "== summary"
printf '%s\n' "${summary[@]}"
grep -h '^real part' "$logs/real" | sort -u
exit "$status"

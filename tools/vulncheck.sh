#!/bin/sh
# vulncheck.sh COMMAND... runs govulncheck and fails on what it finds. Its
# database comes over the network: where that cannot be reached it says so and
# lets the rest of "make check" stand.
set -eu

log=$(mktemp)
trap 'rm -f "$log"' EXIT

echo "$*"
status=0
"$@" >"$log" 2>&1 || status=$?
if [ "$status" -ne 0 ] && grep -q '^govulncheck: fetching vulnerabilities: ' "$log"; then
	cat "$log" >&2
	echo "check: NOT CHECKED for known vulnerabilities: the database cannot be reached from here" >&2
	exit 0
fi
cat "$log"
exit "$status"

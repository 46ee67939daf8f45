#!/bin/sh
# fuzz.sh FUZZTIME PACKAGE... runs every fuzz test of the packages, one after
# the other, each for FUZZTIME. The first that fails ends it.
set -eu

fuzztime=$1
shift

ran=0
packages=$(go list "$@")
for package in $packages; do
	listed=$(go test -list '^Fuzz' "$package")
	for name in $(echo "$listed" | grep '^Fuzz' || true); do
		echo "fuzz: $package $name for $fuzztime"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$package"
		ran=$((ran + 1))
	done
done
echo "fuzz: $ran fuzz tests, no fault found"

#!/bin/sh
# demo.sh shows meros at work on the family mos_demo: it builds its one guest,
# boots it, runs a command in it, sends a file there and back, and shuts it
# down again, whatever happens on the way. Run it through "make demo".
set -eu
cd "$(dirname "$0")/.."

family=mos_demo
target=mos_demo-box

sudo=
if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null 2>&1; then sudo=sudo; fi

# show prints a command line as one would type it, then runs it.
show() {
	echo
	echo "\$ $*"
	"$@"
}

folder=$(mktemp -d)
started=no

finish() {
	status=$?
	trap - EXIT INT TERM HUP
	rm -rf "$folder"
	if [ "$started" = yes ]; then
		show $sudo bin/meros shutdown "$family" || status=1
	fi
	echo
	if [ "$status" -eq 0 ]; then
		echo "demo: done: the guest was built, booted, used and is gone again"
	else
		echo "demo: failed, see above" >&2
	fi
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

show $sudo bin/meros build "$family"
started=yes
show $sudo bin/meros init "$family"
show bin/meros exec "$target" -- uname -a

echo "hello from $(uname -n)" >"$folder/hello.txt"
show bin/meros push "$target" "$folder/hello.txt"
show bin/meros exec "$target" -- cat mos-shared/hello.txt
show bin/meros pull "$target"
show cmp "$folder/hello.txt" "data/mos-shared/$target/hello.txt"

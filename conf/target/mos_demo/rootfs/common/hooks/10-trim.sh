#!/bin/sh
# Hooks run inside the chroot while the image is built: first those of rootfs/common/hooks/, then the target's own,
# each in name order. They need the run bit. One that fails ends the build and shows its last lines.
# This one takes away what a guest without a person at its screen never starts. It runs in every target, also where
# there is no systemd.
set -eu
command -v systemctl >/dev/null || exit 0
systemctl mask getty@tty1.service e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer

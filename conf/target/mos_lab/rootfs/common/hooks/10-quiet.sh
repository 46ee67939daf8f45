#!/bin/sh
# What would talk to the network by itself is not there.
set -eu
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer \
	systemd-timesyncd.service getty@tty1.service
systemctl enable systemd-networkd.service
systemctl disable systemd-networkd-wait-online.service

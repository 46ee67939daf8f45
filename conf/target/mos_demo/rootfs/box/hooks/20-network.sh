#!/bin/sh
# A hook of this target only: it lets systemd-networkd read the file that includes.chroot brought.
set -eu
systemctl enable systemd-networkd.service
# Nothing in the guest waits for a network to be online.
systemctl disable systemd-networkd-wait-online.service

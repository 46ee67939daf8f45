#!/bin/sh
# Makes early-init the guest's first program, and keeps upgrades of systemd from undoing it.
set -eu
dpkg-divert --quiet --local --rename --divert /sbin/init.distrib --add /sbin/init
ln -s /usr/local/sbin/early-init /sbin/init

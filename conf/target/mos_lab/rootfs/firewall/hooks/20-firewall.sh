#!/bin/sh
# The firewall is up before the network is: systemd orders nftables.service so.
set -eu
systemctl enable nftables.service

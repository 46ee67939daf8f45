#!/bin/sh
# torsocks and proxychains go to the firewall's SOCKS port.
set -eu
sed -i 's/^#\?TorAddress .*/TorAddress 10.60.21.2/; s/^#\?TorPort .*/TorPort 9050/' /etc/tor/torsocks.conf
sed -i 's/^socks[45]\s.*/socks5 10.60.21.2 9050/' /etc/proxychains4.conf

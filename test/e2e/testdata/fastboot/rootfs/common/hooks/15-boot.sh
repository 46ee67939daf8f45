#!/bin/sh
set -eu
systemctl disable ssh.service
systemctl enable early-ssh.service

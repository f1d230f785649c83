#!/bin/sh
# Installs what `make test-systemd` needs and this machine lacks, from Debian: a kernel that is a program
# (user-mode-linux), so that a machine can be had without virtualisation, and debootstrap to fill it.
set -eu
lacking=""
for pair in debootstrap:debootstrap linux.uml:user-mode-linux mke2fs:e2fsprogs; do
    command -v "${pair%%:*}" > /dev/null || lacking="$lacking ${pair##*:}"
done
test -z "$lacking" || {
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $lacking
}

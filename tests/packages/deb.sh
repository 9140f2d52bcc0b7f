#!/bin/sh
# Builds the .deb, and installs, upgrades, removes and purges it for real, in a copy of this machine
# that is thrown away: an overlay over /, so that nothing here changes.
#   sh tests/packages/deb.sh [PROGRAM]
set -eu
cd "$(dirname "$0")/../.."
program=$(realpath "${1:-target/debug/wxgate}")

if [ "$(id -u)" != 0 ]; then
    exec sudo sh "$0" "$program"
fi
if [ "${INSIDE:-}" != 1 ]; then
    # Mounts and the network of their own: /etc/wxgate and port 8080 are nobody else's here.
    INSIDE=1 exec unshare --mount --net sh "$0" "$program"
fi

fail() { echo "deb: $*" >&2; exit 1; }

work=$(mktemp -d)
mount -t tmpfs -o size=1g tmpfs "$work"
gateway=
trap 'cd /; [ -z "$gateway" ] || kill -9 "$gateway" 2>/dev/null || true; umount -R "$work/root" 2>/dev/null || true; umount -l "$work"; rmdir "$work"' EXIT
mkdir "$work/debs" "$work/upper" "$work/work" "$work/root"
for version in 0.0.1 0.0.2; do
    STRIP=1 COMPRESS=none VERSION=$version sh deploy/deb/build.sh "$program" "$work/debs" >/dev/null
done
dpkg-deb --info "$work"/debs/wxgate_0.0.2_*.deb

root=$work/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run" # no systemd, and nothing of this machine's
mkdir "$root/debs"
cp "$work"/debs/*.deb "$root/debs/"
ip link set lo up
in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }

if in_root dpkg -s wxgate >/dev/null 2>&1; then
    in_root dpkg --purge wxgate >/dev/null
fi
rm -rf "$root/etc/wxgate"

echo "== install"
in_root sh -c 'dpkg -i /debs/wxgate_0.0.1_*.deb' | tee "$work/said"
grep -q "wxgate check --online" "$work/said" || fail "the next steps are not told"
in_root wxgate --version
[ "$(in_root stat -c '%U:%G %a' /etc/wxgate)" = "root:wxgate 750" ] || fail "/etc/wxgate is open"
for file in config.toml session_key app_secret; do
    [ "$(in_root stat -c '%U:%G %a' "/etc/wxgate/$file")" = "root:wxgate 640" ] || fail "$file is open"
done
[ "$(wc -c <"$root/etc/wxgate/session_key")" -ge 64 ] || fail "the session key is short"
in_root systemd-analyze verify /lib/systemd/system/wxgate.service /lib/systemd/system/wxgate.socket
if grep -En '/usr/local|LoadCredential|DynamicUser' "$root/lib/systemd/system/wxgate.service"; then
    fail "the unit is for another layout"
fi
for page in wxgate wxgate-serve wxgate-check wxgate-probe; do
    in_root sh -c "gzip -dc /usr/share/man/man1/$page.1.gz | groff -man -ww -z" 2>&1 | tee "$work/said"
    [ ! -s "$work/said" ] || fail "$page(1) is not well formed"
done
in_root bash -c 'source /usr/share/bash-completion/completions/wxgate && COMP_WORDS=(wxgate re) COMP_CWORD=1 && _wxgate wxgate re wxgate && [[ " ${COMPREPLY[*]} " == *" revoke "* ]]' \
    || fail "the completion completes nothing"

echo "== run, as its user"
echo secret-of-wx1 >"$root/etc/wxgate/app_secret"
in_root wxgate check --config /etc/wxgate/config.toml
chroot "$root" setpriv --reuid=wxgate --regid=wxgate --clear-groups \
    /usr/bin/wxgate serve --config /etc/wxgate/config.toml >"$work/log" 2>&1 &
gateway=$!
tries=0
until curl -fsS http://127.0.0.1:9090/readyz 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat "$work/log"; fail "it does not get ready"; }
    sleep 0.1
done
answer=$(curl -s -o /dev/null -w '%{http_code}' -H 'Host: h5.example.com' -H 'Accept: application/json' http://127.0.0.1:8080/orders)
[ "$answer" = 401 ] || fail "a stranger was answered $answer"
if in_root runuser -u nobody -- cat /etc/wxgate/session_key 2>/dev/null; then
    fail "anybody reads the session key"
fi

echo "== upgrade, with a configuration of the operator's own"
before=$(cat "$root/etc/wxgate/session_key")
echo "# mine" >>"$root/etc/wxgate/config.toml"
in_root sh -c 'dpkg -i /debs/wxgate_0.0.2_*.deb'
[ "$(in_root dpkg-query -W -f '${Version}' wxgate)" = 0.0.2 ] || fail "it was not upgraded"
[ "$(cat "$root/etc/wxgate/session_key")" = "$before" ] || fail "the upgrade logged everybody out"
grep -q "# mine" "$root/etc/wxgate/config.toml" || fail "the upgrade lost the configuration"
[ "$(cat "$root/etc/wxgate/app_secret")" = secret-of-wx1 ] || fail "the upgrade lost the secret"
kill "$gateway"
wait "$gateway" || fail "it did not stop cleanly"
gateway=

echo "== remove, purge"
in_root dpkg --remove wxgate
[ ! -e "$root/usr/bin/wxgate" ] || fail "the program is still there"
[ -e "$root/etc/wxgate/config.toml" ] || fail "removing took the configuration"
in_root dpkg --purge wxgate
[ ! -e "$root/etc/wxgate" ] || fail "the purge left keys behind"
left=$(find "$work/upper" -path '*wxgate*' -type f | grep -v '/debs/\|/var/lib/dpkg\|/var/log' || true)
[ -z "$left" ] || fail "the purge left $left"
echo "deb: installed, ran, upgraded, removed and purged"

#!/bin/sh
# Puts a program that has been built into a .deb: sh deploy/deb/build.sh [PROGRAM [FOLDER]]
#
# dpkg-deb and nothing else. What the package holds is made from what lies in this repository, so
# that there is one unit file and one config.toml: the lines that differ are changed below, each
# with a check that it was there.
set -eu

program=${1:-target/shipped/wxgate}
out=${2:-target/deb}
cd "$(dirname "$0")/../.."
version=${VERSION:-$("$program" --version | cut -d' ' -f2)}
architecture=$(dpkg --print-architecture)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 0755 "$tree"

put() { # mode, source, place
    install -D -m "$1" "$2" "$tree/$3"
}
change() { # file, from, to: exact text, and it has to be there
    grep -qF -- "$2" "$1" || { echo "$1 has no $2" >&2; exit 1; }
    awk -v from="$2" -v to="$3" '{ i = index($0, from); if (i) $0 = substr($0, 1, i - 1) to substr($0, i + length(from)); print }' \
        "$1" >"$tree/changed" && cat "$tree/changed" >"$1" && rm "$tree/changed"
}

put 0755 "$program" usr/bin/wxgate
[ -z "${STRIP:-}" ] || strip "$tree/usr/bin/wxgate"

# The unit, for a user that the package made: it owns nothing but its state, and its group may read
# the secrets in /etc/wxgate.
unit=$tree/lib/systemd/system
put 0644 deploy/systemd/wxgate.service lib/systemd/system/wxgate.service
put 0644 deploy/systemd/wxgate.socket lib/systemd/system/wxgate.socket
change "$unit/wxgate.service" "/usr/local/bin/wxgate serve" "/usr/bin/wxgate serve"
change "$unit/wxgate.service" "/usr/local/bin/wxgate check" "/usr/bin/wxgate check"
change "$unit/wxgate.service" "DynamicUser=yes" "User=wxgate"
change "$unit/wxgate.service" "LoadCredential=app_secret:/etc/wxgate/app_secret" ""
change "$unit/wxgate.service" "LoadCredential=session_key:/etc/wxgate/session_key" ""
# The words above those lines are about the other way to do it.
sed -i -e '/^# Secrets: root/,/^$/d' -e '/^# With \[admin\] token/d' -e '/^#LoadCredential=/d' -e '/^# Install as/,/^$/d' \
    -e 's/^# Who it runs as: a user that exists only while the service runs, and owns one folder, for/# Who it runs as: a user of its own (sysusers.d), who owns one folder, for/' "$unit/wxgate.service"
sed -i '/^# Install as/d' "$unit/wxgate.socket"
put 0644 deploy/deb/wxgate.sysusers usr/lib/sysusers.d/wxgate.conf

put 0640 config.toml etc/wxgate/config.toml
change "$tree/etc/wxgate/config.toml" '{ env = "WXGATE_SESSION_KEY" }' '{ file = "session_key" }'
change "$tree/etc/wxgate/config.toml" '{ env = "WXGATE_APP_SECRET" }' '{ file = "app_secret" }'

"$program" generate "$tree/generated"
for page in "$tree"/generated/man1/*; do
    gzip -9n "$page"
    put 0644 "$page.gz" "usr/share/man/man1/$(basename "$page").gz"
done
put 0644 "$tree/generated/completions/wxgate.bash" usr/share/bash-completion/completions/wxgate
put 0644 "$tree/generated/completions/_wxgate" usr/share/zsh/vendor-completions/_wxgate
put 0644 "$tree/generated/completions/wxgate.fish" usr/share/fish/vendor_completions.d/wxgate.fish
rm -r "$tree/generated"

doc=usr/share/doc/wxgate
put 0644 LICENSE "$doc/copyright"
gzip -9nc CHANGELOG.md >"$tree/changelog" && put 0644 "$tree/changelog" "$doc/changelog.gz" && rm "$tree/changelog"
for page in README.md README.zh-CN.md config.toml $(git ls-files docs deploy 2>/dev/null | grep -v '/img/' || find docs deploy -type f); do
    put 0644 "$page" "$doc/$page"
done

# The newest symbol of the C library that the program asks for is the oldest it runs with.
libc=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | cut -d_ -f2 | sort -Vu | tail -1)
mkdir "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<END
Package: wxgate
Version: $version
Architecture: $architecture
Maintainer: ${DEB_MAINTAINER:-the wxgate authors <wxgate@localhost>}
Section: net
Priority: optional
Depends: libc6 (>= $libc), libgcc-s1, systemd | systemd-standalone-sysusers
Installed-Size: $(du -sk "$tree" | cut -f1)
Description: authentication gateway in front of WeChat H5 sites
 Logs every visitor of a site in through WeChat, keeps a signed session cookie,
 and tells the site who is asking in a request header.
END
echo /etc/wxgate/config.toml >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    put 0755 "deploy/deb/$script" "DEBIAN/$script"
done
(cd "$tree" && find usr lib -type f -exec md5sum {} +) >"$tree/DEBIAN/md5sums"

mkdir -p "$out"
dpkg-deb --root-owner-group "-Z${COMPRESS:-xz}" --build "$tree" "$out/wxgate_${version}_$architecture.deb"

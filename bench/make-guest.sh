#!/bin/sh
# Packs the bench guest's initramfs: make-guest.sh BUSYBOX OUTPUT [INIT]. Needs Debian's cpio; no root.
set -eu
busybox=$1 output=$2 init=${3:-$(dirname "$0")/guest/init}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin"
cp "$busybox" "$root/bin/busybox"
cp "$init" "$root/init"
chmod 755 "$root/bin/busybox" "$root/init"
for applet in $("$busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
(cd "$root" && find . | sort | cpio --quiet -o -H newc -R 0:0) >"$output"

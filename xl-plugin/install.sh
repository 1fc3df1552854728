#!/bin/sh
# Installs the save helper that `cargo build --release --features xen` has built, or takes it away again.
#
#   xl-plugin/install.sh [--uninstall]
#
# PREFIX (/usr/local) and DESTDIR (empty) say where to; CARGO_TARGET_DIR (target) where from.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
folder=${DESTDIR:-}${PREFIX:-/usr/local}/lib/xen-replicate
name=xen-replicate-save-helper

case ${1:-} in
'')
    built=${CARGO_TARGET_DIR:-$here/../target}/release/$name
    if [ ! -x "$built" ]; then
        echo "$built is not there: cargo build --release --features xen" >&2
        exit 2
    fi
    install -d "$folder"
    install -m 755 "$built" "$folder/$name"
    echo "$folder/$name"
    ;;
--uninstall)
    rm -f "$folder/$name"
    # Only if nothing else is in it.
    rmdir "$folder" 2>/dev/null || :
    ;;
*)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

#!/bin/sh
# Installs the save helper, or takes it away again. Nothing uses it before LIBXL_SAVE_HELPER names it: see README.md.
#
#   install.sh [--uninstall]
#
# DESTDIR  put in front of every path, for packagers
# PREFIX   /usr/local
# BINARY   the program to install; by default what `cargo build --release --features xen` has made here
set -eu

prefix=${PREFIX:-/usr/local}
target=${DESTDIR:-}$prefix/lib/xen-replicate/xen-replicate-save-helper

case $#${1-} in
0)
    here=$(dirname -- "$0")
    binary=${BINARY:-${CARGO_TARGET_DIR:-$here/../target}/release/xen-replicate-save-helper}
    if [ ! -f "$binary" ]; then
        echo "$0: $binary is not there: cargo build --release --features xen" >&2
        exit 1
    fi
    install -D -m 0755 -- "$binary" "$target"
    echo "LIBXL_SAVE_HELPER=$prefix/lib/xen-replicate/xen-replicate-save-helper"
    ;;
1--uninstall)
    rm -f -- "$target"
    # Other parts of the package may live there.
    rmdir -- "$(dirname -- "$target")" 2>/dev/null || :
    ;;
*)
    echo "usage: $0 [--uninstall]" >&2
    exit 2
    ;;
esac

#!/bin/sh
# Puts xen-replicate beside the stock xl, or takes it away again: README.md.
#
#   install.sh [--uninstall]
#
# PREFIX      /usr/local. The wrapper is $PREFIX/sbin/xl, which must come before the stock xl in PATH
# STOCK_XL    the xl that is passed on to: /usr/sbin/xl
# SYSCONFDIR  where the wrapper and the unit look for options: /etc
# BINARIES    the folder of the two programs: where `cargo build --release` puts them
# DESTDIR     put in front of every path that is written, for packagers
#
# What is installed stands in $PREFIX/lib/xen-replicate/installed, before it is: that is what --uninstall takes away, however far the
# installation came. A second installation takes away what the first one had and it has not.
set -eu

die() {
    echo "$0: $*" >&2
    exit 1
}

here=$(dirname -- "$0")
root=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
stock=${STOCK_XL:-/usr/sbin/xl}
sysconfdir=${SYSCONFDIR:-/etc}
binaries=${BINARIES:-${CARGO_TARGET_DIR:-$here/../target}/release}
case $prefix$stock$sysconfdir in *[!-A-Za-z0-9/._+]*) die "PREFIX, STOCK_XL, SYSCONFDIR: letters, digits and -/._+ only" ;; esac
list=$prefix/lib/xen-replicate/installed
unit=xen-replicate-receive@.service
new=''
trap '[ -z "$new" ] || rm -rf -- "$new"' EXIT
trap 'exit 1' HUP INT TERM

# systemd ARGUMENT...: systemctl, where this is the host that is installed to, and a prefix in which systemd looks.
systemd() {
    case $root$prefix in
    /usr | /usr/local) [ ! -d /run/systemd/system ] || systemctl "$@" ;;
    esac
}

# remove FILE: the files and then the folders of a list, those that are there and, of the folders, empty.
remove() {
    while read -r kind path; do [ "$kind" != f ] || rm -f -- "$root$path" "$root$path.new"; done <"$1"
    # Those below come behind those above.
    sort -r "$1" | while read -r kind path; do [ "$kind" != d ] || rmdir -- "$root$path" 2>/dev/null || :; done
}

uninstall() {
    if [ ! -e "$root$list" ]; then
        # An installation that did not come to anything.
        rm -f -- "$root$list.new"
        rmdir -- "$(dirname -- "$root$list")" 2>/dev/null || :
        return 0
    fi
    if grep -qx "f .*/$unit" "$root$list"; then
        systemd stop 'xen-replicate-receive@*.service'
        for link in "$root$sysconfdir"/systemd/system/*.wants/xen-replicate-receive@*.service; do
            [ ! -L "$link" ] || rm -f -- "$link"
        done
    fi
    # The list goes last: whatever stops this, it can be run again.
    new=$(mktemp -d)
    grep -vxF "f $list" "$root$list" >"$new/files" || :
    remove "$new/files"
    grep "^d " "$root$list" >"$new/folders" || :
    rm -f -- "$root$list"
    remove "$new/folders"
    systemd daemon-reload
}

# folders_of PATH...: lines for those folders above them that are not there yet, or that an earlier installation made.
folders_of() {
    for path; do
        while path=$(dirname -- "$path") && [ "$path" != / ]; do
            if [ ! -d "$root$path" ] || grep -qxF "d $path" "$root$list" 2>/dev/null; then echo "d $path"; fi
        done
    done | sort -u
}

# place MODE FILE PATH: a file in its place, at once and not in parts.
place() {
    install -d -m 0755 -- "$(dirname -- "$root$3")"
    install -m "$1" -- "$2" "$root$3.new"
    mv -f -- "$root$3.new" "$root$3"
}

install_all() {
    for program in xen-replicate xen-replicate-save-helper; do
        [ -f "$binaries/$program" ] || die "$binaries/$program is not there: cargo build --release"
    done
    wrapper=$prefix/sbin/xl
    [ "$wrapper" != "$stock" ] || die "$wrapper is the stock xl itself: choose another PREFIX, or the Debian package"
    if [ -z "$root" ]; then
        [ -x "$stock" ] || die "$stock is not there: the stock xl is needed (Debian: xen-utils-common); elsewhere, set STOCK_XL"
        ! grep -qs XEN_REPLICATE_XL "$stock" || die "$stock is xen-replicate's already: the Debian package is installed"
    fi
    if [ -e "$root$wrapper" ] && ! grep -qsxF "f $wrapper" "$root$list"; then
        die "$wrapper is there already and is not ours"
    fi

    new=$(mktemp -d)
    # Everything is made before anything is put in place.
    "$binaries/xen-replicate" man "$new/man"
    "$binaries/xen-replicate" completion bash >"$new/completion"
    sed -e "s|^stock=.*|stock=$stock|" -e "s|^ours=.*|ours=$prefix/bin/xen-replicate|" \
        -e "s|^options=.*|options=$sysconfdir/xen-replicate|" "$here/xl" >"$new/xl"
    sed -e "s|/usr/bin/xen-replicate|$prefix/bin/xen-replicate|" -e "s|/etc/xen-replicate|$sysconfdir/xen-replicate|" \
        "$here/systemd/$unit" >"$new/unit"
    {
        echo "0755 $prefix/bin/xen-replicate $binaries/xen-replicate"
        echo "0755 $prefix/lib/xen-replicate/xen-replicate-save-helper $binaries/xen-replicate-save-helper"
        echo "0644 $prefix/share/bash-completion/completions/xen-replicate $new/completion"
        for page in "$new"/man/*; do echo "0644 $prefix/share/man/man${page##*.}/${page##*/} $page"; done
        echo "0644 $prefix/lib/systemd/system/$unit $new/unit"
        # Last, for it makes use of the others.
        echo "0755 $wrapper $new/xl"
    } >"$new/plan"
    {
        echo "f $list"
        sed 's|^[0-9]* \([^ ]*\) .*|f \1|' "$new/plan"
    } >"$new/files"
    # shellcheck disable=SC2046 # paths without blanks
    folders_of $(sed 's/^f //' "$new/files") "$sysconfdir/xen-replicate/options" >"$new/folders"
    if [ -e "$root$list" ]; then
        grep '^f ' "$root$list" | grep -vxFf "$new/files" >"$new/stale" || :
        # Known until they are gone.
        cat "$new/files" "$new/folders" "$new/stale" >"$new/list"
    else
        cat "$new/files" "$new/folders" >"$new/list"
        : >"$new/stale"
    fi
    place 0644 "$new/list" "$list"
    while read -r mode path file; do place "$mode" "$file" "$path"; done <"$new/plan"
    # Empty: that is where the operator's options go.
    install -d -m 0755 -- "$root$sysconfdir/xen-replicate"
    remove "$new/stale"
    cat "$new/files" "$new/folders" >"$new/list"
    place 0644 "$new/list" "$list"
    systemd daemon-reload

    if [ -z "$root" ] && [ "$(command -v xl)" != "$wrapper" ]; then
        echo "$0: in this PATH xl is $(command -v xl): $prefix/sbin must come before $(dirname -- "$stock")" >&2
    fi
    echo "LIBXL_SAVE_HELPER=$prefix/lib/xen-replicate/xen-replicate-save-helper"
}

case $#${1-} in
0) install_all ;;
1--uninstall) uninstall ;;
*)
    echo "usage: $0 [--uninstall]" >&2
    exit 2
    ;;
esac

# shellcheck shell=bash
# What `build`, `run` and `run-two` share: where things are.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
# Everything that is built or comes out of a run. Nothing outside of it is written, but Debian packages are installed.
XEN_LAB=${XEN_LAB:-${CARGO_TARGET_DIR:-$project/target}/xen-lab}
mkdir -p "$XEN_LAB"
XEN_LAB=$(cd "$XEN_LAB" && pwd)
export XEN_LAB here project

say() { printf 'xen-lab: %s\n' "$*" >&2; }

die() {
  say "$*"
  exit 2
}

# of_release XEN: the release of Xen that the lab has from here on; the images of each are in a folder of its own.
of_release() {
  case $1 in
  4.14) suite=bullseye ;;
  4.17) suite=bookworm ;;
  4.20) suite=trixie ;;
  *) die "no Debian release has Xen $1 for the lab: 4.14, 4.17 or 4.20" ;;
  esac
  xen_release=$1 images=$XEN_LAB/xen-$1
  export xen_release suite images
}

of_release 4.17

# needs_packages NAME...: installs those Debian packages that are not there.
needs_packages() {
  local missing=() package
  for package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# sources TYPES FILE: the machine's own mirrors, for the release that has this Xen.
sources() {
  awk -v types="$1" -v suite="$suite" 'BEGIN { RS = ""; ORS = "\n\n" } {
    security = /security/
    gsub(/Types: [^\n]*/, "Types: " types)
    gsub(/Suites: [^\n]*/, "Suites: " suite (security ? "-security" : ""))
    print
  }' /etc/apt/sources.list.d/debian.sources >"$2"
}

# release_lists FOLDER TYPES: what the Debian release that has this Xen offers, whatever this machine's own is; lists and all else is in
# FOLDER, nothing is installed. Leaves in `of_suite` what apt-get and apt-cache are to be told.
release_lists() {
  of_suite=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$1/sources" -o "Dir::State::lists=$1/lists"
    -o "Dir::Cache=$1/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
  [ ! -d "$1" ] || return 0
  mkdir -p "$1"/{sources,lists/partial,cache/archives/partial}
  sources "$2" "$1/sources/debian.sources"
  apt-get "${of_suite[@]}" update
}

# shellcheck shell=bash
# What `build`, `run` and `run-two` share: where things are.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
# Everything that is built or comes out of a run. Nothing outside of it is written, but Debian packages are installed.
XEN_LAB=${XEN_LAB:-${CARGO_TARGET_DIR:-$project/target}/xen-lab}
mkdir -p "$XEN_LAB"
XEN_LAB=$(cd "$XEN_LAB" && pwd)
export XEN_LAB here project

# The release of Xen that Debian 12 has.
xen_release=4.17
export xen_release

say() { printf 'xen-lab: %s\n' "$*" >&2; }

die() {
  say "$*"
  exit 2
}

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

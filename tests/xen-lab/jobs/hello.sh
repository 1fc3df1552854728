# shellcheck shell=bash
# Does the host come up, and a guest of each type?
for type in ${types:-pvh hvm pv}; do
  start_guest "$type" "$type"
  check "$type runs" exists "$type"
  xl destroy "$type"
done

# shellcheck shell=bash
# A guest with Debian's own kernel, saved by the stock xl and helper: the image that `crash-here` lets Debian's crash read, outside. Parameters:
#   type=pvh|hvm   the guest
: "${type:=pvh}"
name=guest
[ "$guest_kernel" = vmlinuz ] || broken "the small kernel has no debug symbols: without vmlinuz-small"
LIBXL_SAVE_HELPER=$(helper stock)
export LIBXL_SAVE_HELPER
one_failure_ends
start_guest $name "$type"
# Not .image: those stay in dom0.
check "save exits with 0" xl_as stock save $name guest.saved 2>save.log
note counted "$(counted $name)"

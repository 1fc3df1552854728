# shellcheck shell=bash
# What is predicted of a guest against what this host's stock xl does with it, and what the host says of itself. Parameters:
#   type=pv|pvh|hvm     the guest
#   images="..."        further images, of other releases: paths in the folder that the host shares
: "${type:=pvh}" "${images:=}"
name=guest
LIBXL_SAVE_HELPER=$(helper stock)
export LIBXL_SAVE_HELPER
one_failure_ends

check "host-info exits with 0" xen-replicate host-info >host-info.json
check "no part of the hypervisor's is missing" test "$(grep -c 'no access to Xen' host-info.json)" = 0

# Whether xl restores an image, and whether that was predicted.
held() {
  local image=$1 expected=0 found=0
  xen-replicate verify --for local "$image" >"prediction.$(basename "$image")" 2>&1 || expected=$?
  xl_as stock restore "$image" >"restore.$(basename "$image")" 2>&1 || found=1
  note "prediction_$(basename "$image")" "$expected/$found"
  check "what was predicted of $(basename "$image") comes" test "$expected" = "$found"
  xl list | awk 'NR > 2 { print $2 }' | while read -r domain; do timeout 60 xl destroy "$domain"; done
}

start_guest $name "$type"
check "save exits with 0" xl_as stock save $name save.image 2>save.log
held save.image
for image in $images; do
  held "/share/$image"
done

# shellcheck shell=bash
# For jobs in dom0: guests, their consoles, and what was found.

work=/lab/work
# Not on the share: a file there that one program appends to and others read has made the emulator hang.
consoles=/var/log/xen/console
# Of the release that this dom0 has.
stock=$(echo /usr/lib/xen-[0-9]*/bin/libxl-save-helper)
ours=/lab/xen-replicate-save-helper
export work consoles

# The share cannot hold a program that runs while the emulator's file server is busy with it.
cp /share/lab/xen-replicate-save-helper "$ours"
cp /share/lab/xen-replicate /usr/local/bin/
cp "$ours" /usr/local/bin/
export RUST_LOG=${RUST_LOG:-debug}
# Parameters that every job has.
: "${region_kb:=8192}" "${dirty_kb:=256}" "${tick_ms:=200}"
# The small kernel where there is one: Debian's needs more memory, and some have no time for it.
if [ -e /share/lab/vmlinuz-small ]; then
  : "${memory_mb:=48}" "${guest_kernel:=vmlinuz-small}"
  cp /share/lab/vmlinuz-small /lab/
else
  : "${memory_mb:=128}" "${guest_kernel:=vmlinuz}"
fi

cp /share/lab/{guest-initrd,receiver,dial,answer,watched,client,other-xen.so} /lab/

say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }

# check WHAT COMMAND...: a test. Its outcome counts, the job goes on.
check() {
  local what=$1
  shift
  if "$@"; then
    say "ok: $what"
    echo "$what" >>"$work/passes"
  else
    say "FAILED: $what ($*)"
    echo "$what ($*)" >>"$work/failures"
  fi
}

# one_failure_ends: from here on, behind a check that fails the others say nothing: what can be found out goes to the job's log, and it
# ends.
one_failure_ends() {
  eval "$(declare -f check | sed '1s/check/note_check/')"
  check() {
    note_check "$@"
    [ ! -s failures ] || {
      aftermath
      exit 1
    }
  }
}

# aftermath: what the programs have said, what those that still run wait for, and what Xen says of the domains.
aftermath() {
  local log process
  for log in *.log *.status; do
    [ -e "$log" ] && grep -av DEBUG "$log" | tail -n 25 | cut -c 1-300 | sed "s/^/$log: /"
  done
  # All but the kernel's own threads.
  ps --ppid 2 -p 2 --deselect -L -o pid,tid,ppid,stat,wchan:24,args | cut -c 1-200
  for process in $(pgrep 'xl|xen-replicate'); do
    for log in /proc/"$process"/task/*/stack; do sed "s|^|$log: |" "$log"; done
    find "/proc/$process/fd" -type l -printf '%p %l\n'
  done
  xl list -l | grep -aE '"(domid|name)"'
  xl list
  xl dmesg | grep -avE 'HVM *d?[0-9]+.* (save|restore):' | tail -n 40
}

# broken WHY: what is under test was not even reached. Ends the job; it is to be run again.
broken() {
  say "BROKEN: $*"
  echo "$*" >>"$work/broken"
  exit 1
}

# circles: whether a stock xl that receives checkpoints does nothing but use the processor. libxl does where its stream ends in its own part of
# a checkpoint: it takes the end for an empty record, and reads on (docs/xen.md).
circles() {
  local pid before
  for pid in $(pgrep -f 'xl .*migrate-receive'); do
    case $(readlink "/proc/$pid/exe") in */xl) ;; *) continue ;; esac
    before=$(ticks "$pid")
    sleep 2
    # More than half of that time.
    [ $(($(ticks "$pid") - before)) -lt 100 ] || return 0
  done
  return 1
}

# ticks PID: hundredths of a second that it has had the processor.
ticks() {
  awk '{ print $14 + $15 }' "/proc/$1/stat" 2>/dev/null || echo 0
}

# conclude EXIT-CODE: the job is over, or as good as: what it has left goes to the share, and the verdict last: whoever finds one may rely
# on the rest.
conclude() {
  local verdict
  cd "$work" || exit
  mkdir -p /share/results /share/consoles
  cp "$consoles"/* /share/consoles/
  find . -maxdepth 1 -type f ! -name '*.image' -exec cp {} /share/results/ \;
  dmesg >/share/dmesg.log
  xl dmesg >/share/xl-dmesg.log
  if [ -s broken ]; then
    verdict="broken $(head -n 1 broken)"
  elif [ -s failures ] && [ -s crashes ] && ! grep -aq 'Assertion' ./*.log; then
    verdict="broken $(head -n 1 crashes)"
  elif [ -s failures ] && grep -a -h -m 1 'killing execution of .* because of timeout' ./*.log >slow; then
    # libxl gives its scripts a fixed time, which the emulator did not make.
    verdict="broken $(head -n 1 slow)"
  elif [ -s failures ] && grep -E 'Oops|BUG:|general protection|segfault at' /share/dmesg.log | grep -v xen-replicate >oops; then
    # A program that is not ours has crashed: then it is the emulator that does not do what a CPU does.
    verdict="broken $(head -n 1 oops)"
  elif [ -s failures ] && grep -a -m 1 'Triple fault' /share/xl-dmesg.log >triple; then
    # The emulator enters a guest with what is the hypervisor's own (its code and page tables were seen in the guest's registers), or raises what
    # the guest's memory gives no reason for: under the stock tools alone too.
    verdict="broken $(head -n 1 triple)"
  elif [ -s failures ] && circles; then
    verdict="broken xl turns in circles: its stream has ended in libxl's part of a checkpoint"
  elif [ -s failures ]; then
    verdict="fail $(wc -l <failures) of $(cat failures passes 2>/dev/null | wc -l): $(head -n 1 failures)"
  elif [ "$1" != 0 ] || [ ! -s passes ]; then
    verdict="fail the job ended early, with $1"
  else
    verdict="pass $(wc -l <passes)"
  fi
  say "$verdict"
  echo "$verdict" >/share/verdict.new
  sync
  mv /share/verdict.new /share/verdict
}

# timed NAME COMMAND...: runs it, notes the seconds it took as `NAME SECONDS` in timings, and gives its exit code.
timed() {
  local name=$1 start=$EPOCHREALTIME rc
  shift
  "$@"
  rc=$?
  note "$name" "$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')"
  return $rc
}

note() {
  say "$1: $2"
  echo "$1 $2" >>"$work/timings"
}

helper() {
  case $1 in
  stock) echo "$stock" ;;
  ours) echo "$ours" ;;
  *) broken "no such helper: $1" ;;
  esac
}

# configure NAME TYPE: writes NAME.cfg. Parameters: memory_mb, vcpus, region_kb, dirty_kb, tick_ms, suspend_channel, balloon; disk, a block device that it
# writes to; net_own and net_to, see bridge.
configure() {
  {
    cat <<CFG
name = "$1"
type = "$2"
memory = $memory_mb
maxmem = $memory_mb
vcpus = ${vcpus:-1}
kernel = "/lab/$guest_kernel"
ramdisk = "/lab/guest-initrd"
extra = "console=hvc0 quiet panic=1 mitigations=off rdinit=/init region_kb=$region_kb dirty_kb=$dirty_kb tick_ms=$tick_ms ${net_to:+net_own=$net_own net_to=$net_to} ${suspend_channel:+suspend_channel=1} ${disk:+disk=1} ${balloon:+balloon=1}"
on_crash = "destroy"
on_reboot = "destroy"
CFG
    # With Debian's own kernel: the small one has no network.
    [ "${net_to:-}" ] && echo "vif = ['bridge=lab,mac=00:16:3e:00:00:09']"
    [ "${disk:-}" ] && echo "disk = ['phy:$disk,xvda,w']"
    # The emulated CPU cannot scale or trap the time stamp counter.
    [ "$2" != pv ] && echo 'tsc_mode = "native"'
    [ "$2" = hvm ] && printf '%s\n' 'vga = "none"' 'nographic = 1' 'device_model_version = "qemu-xen"'
  } >"$1.cfg"
}

# bridge ADDRESS/BITS [DEVICE]: the bridge that guests with net_to are plugged into, with the device in it; and whoever listens there:
# what guests tell the outside goes to the file `outside`.
bridge() {
  ip link add lab type bridge
  if [ "${2:-}" ]; then
    ip address flush dev "$2"
    ip link set "$2" master lab
  fi
  ip address add "$1" dev lab
  ip link set lab up
  socat -u UDP-RECV:9000 OPEN:outside,creat,append &
}

# converse ADDRESS: a client outside talks to the guest, over one connection that has to outlive its host; see client.rs. Its answers go
# to the file `conversation`.
converse() {
  touch conversation
  /lab/client "$1:9001" >>conversation 2>&1 &
}

# answers: how many the client has had.
answers() { grep -c ^answer conversation; }

answered() { [ "$(answers)" -ge "$1" ]; }

# sound: nothing that the client was told was taken back, and its connection is there.
sound() { ! grep -E 'CONTRADICTED|LOST' conversation; }

# longest_silence: seconds between two answers.
longest_silence() { grep -o 'silence=.*' conversation | cut -d= -f2 | sort -n | tail -n 1; }

# told: the highest count that the outside was told.
told() { grep -a -o 'LAB count=[0-9]*' outside 2>/dev/null | grep -o '[0-9]*' | sort -n | tail -n 1 | grep . || echo 0; }

# console NAME: where the console of the domain of that name is logged.
console() { echo "$consoles/guest-$1.log"; }

# counted NAME: the last counter value on its console, or 0.
counted() {
  local last
  last=$(grep -a -o 'LAB count=[0-9]* sum=[0-9a-f]* up' "$(console "$1")" 2>/dev/null | tail -n 1)
  last=${last#LAB count=}
  echo "${last%% *}" | grep . || echo 0
}

# first_counted NAME: the first counter value on its console.
first_counted() { grep -a -o -m 1 'LAB count=[0-9]*' "$(console "$1")" | grep -o '[0-9]*'; }

# reaches NAME COUNT SECONDS: its counter gets there in this time.
reaches() {
  local end=$((EPOCHSECONDS + $3))
  while [ "$(counted "$1")" -lt "$2" ]; do
    [ $EPOCHSECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# start_guest NAME TYPE: creates it, with the stock tools alone, and waits until it counts.
start_guest() {
  local patience=0
  configure "$1" "$2"
  timed "create" timeout 400 xl create "$1.cfg" >"create-$1.log" 2>&1 || broken "xl create of $1 failed"
  until reaches "$1" 3 15; do
    exists "$1" || broken "$1 has died before it counted"
    [ $((++patience)) -lt 20 ] || broken "$1 does not count after xl create"
  done
  say "$1 counts"
}

# Domains by name or number.
exists() { xl list "$1" >/dev/null 2>&1; }
absent() { ! exists "$1"; }

# suspended TIMES LOG SECONDS: libxl has suspended the guest that often.
suspended() {
  local end=$((EPOCHSECONDS + $3))
  while [ "$(grep -ac 'guest has suspended' "$2")" -lt "$1" ]; do
    [ $EPOCHSECONDS -lt $end ] || return 1
    # A sender that has ended will not.
    [ -z "${remus:-}" ] || kill -0 "$remus" || return 1
    sleep 0.2
  done
}

# says LOG TEXT SECONDS: the line appears.
says() {
  local end=$((EPOCHSECONDS + $3))
  until grep -aq "$2" "$1"; do
    [ $EPOCHSECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# disk_found NAME: how many blocks the guest has found to be what it wrote there.
disk_found() {
  local found
  found=$(grep -a -o ' disk=[0-9]*' "$(console "$1")" | tail -n 1)
  echo "${found#* disk=}" | grep . || echo 0
}

found_blocks() { [ "$(disk_found "$1")" -ge "$2" ]; }

# disk_right NAME BLOCKS SECONDS: it finds that many blocks more in this time, and none that was not.
disk_right() {
  eventually "$3" found_blocks "$1" $(($(disk_found "$1") + $2)) && ! grep -a -m 1 'LAB disk WRONG\|LAB no disk' "$(console "$1")"
}

# attached SECTORS: there is a disk of that size at /dev/nbd0.
attached() { [ "$(cat /sys/block/nbd0/size)" = "$1" ]; }

# share_witness: the folder that both of two hosts see, as /witness.
share_witness() {
  mkdir -p /witness
  mount -t 9p -o trans=virtio,version=9p2000.L,cache=none witness /witness || broken "no witness"
  mkdir -p /witness/generations
  # What both sides are told: an emulated host may be silent for a while, and the first image takes its time.
  # shellcheck disable=SC2034 # the jobs use it
  both=(--witness /witness/generations --heartbeat 2000 --timeout 20000 --answer-timeout 600000)
}

# acknowledged_by NAME [OPTION...]: the number of the newest checkpoint that is acknowledged to the engine that protects NAME, or 0.
acknowledged_by() {
  local name=$1
  shift
  timeout 10 xen-replicate ctl "$name" "$@" status --json 2>/dev/null | grep -o '"acknowledged":[0-9]*' | grep -o '[0-9]*$' || echo 0
}

# acknowledged NAME COUNT SECONDS [OPTION...]: it gets to that number in this time.
acknowledged() {
  local name=$1 count=$2 end=$((EPOCHSECONDS + $3))
  shift 3
  until [ "$(acknowledged_by "$name" "$@")" -ge "$count" ]; do
    [ $EPOCHSECONDS -lt "$end" ] || return 1
    # An engine that has ended will not.
    [ -z "${engine:-}" ] || kill -0 "$engine" || return 1
    sleep 0.5
  done
}

# eventually SECONDS COMMAND...: it succeeds in this time.
eventually() {
  local end=$((EPOCHSECONDS + $1))
  shift
  until "$@"; do
    [ $EPOCHSECONDS -lt "$end" ] || return 1
    sleep 0.5
  done
}

# kill_primary PID DOMID: what the death of the primary's host takes along, at once: the sending xl below PID, with its children, and the
# domain.
kill_primary() {
  local pid victims=() words
  for pid in $(pstree -p "$1" | grep -o '([0-9]*)' | tr -d '()'); do
    mapfile -d '' words 2>/dev/null <"/proc/$pid/cmdline" || continue
    # The receiver is among them, in the place of ssh.
    case ${words[*]} in
    *migrate-receive* | *--restore-domain* | *'receive --bare'*) ;;
    *) victims+=("$pid") ;;
    esac
  done
  kill -KILL "${victims[@]}"
  xl destroy "$2"
}

# xl_as HELPER ARGUMENT...: xl with that helper.
xl_as() {
  local which
  which=$(helper "$1")
  shift
  LIBXL_SAVE_HELPER=$which timeout 400 /lab/watched xl -vvv "$@"
}

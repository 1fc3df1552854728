# shellcheck shell=bash
# A guest that gives memory back, takes it again and writes to it between two checkpoints; then its host dies. Parameters:
#   by=engine|helper   this project's own engine, or the stock `xl remus` with our save helper at both ends
#   trust=1            what the dirty log does not tell is passed over: shows that it is lost then, on a Xen whose log does not tell
#   lost=1             so much is expected: pages that the survivor has not
#   interval=MS        between checkpoints. The engine's is made long while the guest takes and writes; libxl's stays as it is, so it must be
#                      long enough for that
: "${type:=pvh}" "${by:=engine}" "${trust:=}" "${lost:=}" "${interval:=}" "${memory_mb:=192}" "${given_mb:=16}"
# Its own work is to be short: what counts is how soon it fills what it has taken.
region_kb=256 dirty_kb=64
name=guest
incoming=$name--incoming
export balloon=1
[ -z "$trust" ] || export XEN_REPLICATE_TRUST_DIRTY_LOG=1
start_guest $name "$type"
one_failure_ends

has_mb() { [ "$(xl list | awk -v name=$name '$1 == name { print $3 }')" "$1" "$2" ]; }

# more COUNT SECONDS: so many checkpoints more are complete.
more() {
  local before
  before=$(checkpoints_made)
  eventually "$2" made $((before + $1))
}
made() { [ "$(checkpoints_made)" -ge "$1" ]; }

case $by in
engine)
  : "${interval:=1000}"
  mkdir -p witness
  both=(--witness "$work/witness" --heartbeat 2000 --timeout 40000 --answer-timeout 400000)
  xen-replicate receive --domain $name --once --listen unix:b.link --control b.link.ctl "${both[@]}" >receiver.log 2>&1 &
  until [ -S b.link ]; do sleep 0.1; done
  xen-replicate remus -F -n -d -i "$interval" "${both[@]}" $name unix:b.link >protect.log 2>&1 &
  protection=$!
  checkpoints_made() { acknowledged_by $name; }
  # From the next checkpoint on.
  every() { timeout 60 xen-replicate ctl $name set-interval "$1" >>interval.log 2>&1; }
  ;;
helper)
  : "${interval:=120000}"
  every() { :; }
  LIBXL_SAVE_HELPER=$(helper ours)
  receiver_helper=$LIBXL_SAVE_HELPER
  receiver_log=$work/receiver.log
  export LIBXL_SAVE_HELPER receiver_helper receiver_log
  xl_as ours remus -F -n -d -i "$interval" -s /lab/receiver $name localhost 2>protect.log &
  protection=$!
  checkpoints_made() { grep -ac 'guest has suspended' protect.log; }
  ;;
*) broken "no such way: $by" ;;
esac

check "the guest is protected" more 2 600
check "the guest runs on meanwhile" reaches $name $(($(counted $name) + 3)) 120
primary=$(xl domid $name)
xl mem-set $name $((memory_mb - given_mb)) || broken "no balloon"
check "it has given memory back" eventually 120 has_mb -lt $((memory_mb - given_mb / 2))
check "and says so" says "$(console $name)" 'LAB balloon given' 120
check "and is protected without it" more 2 300
# Just behind a checkpoint: what it takes now it writes before the next.
every 60000
check "one more checkpoint" more 1 300
taken=$(checkpoints_made)
xl mem-set $name "$memory_mb" || broken "no balloon"
check "it has taken it again and filled it" says "$(console $name)" 'LAB balloon filled' 400
meanwhile=$(($(checkpoints_made) - taken))
note checkpoints_meanwhile $meanwhile
[ $meanwhile = 0 ] || broken "a checkpoint came between taking and writing"
every "${interval}"
check "and is protected with it" more 2 300
grep -a 'LAB balloon' "$(console $name)" | tail -n 1
case $by in
engine)
  kill -KILL $protection
  xl destroy "$primary"
  check "our receiver takes over" says receiver.log 'the guest runs here' 240
  ;;
helper)
  kill_primary $protection "$primary"
  check "the receiver fails over" says receiver.log Failover 240
  ;;
esac
check "the guest goes on behind the failover" reaches $incoming $(($(counted $incoming) + 3)) 240
found=$(grep -a -o 'LAB balloon pages=[0-9]* wrong=[0-9]*' "$(console $incoming)" | tail -n 1)
note balloon "${found:-nothing}"
check "it looks at what it has filled" test "$found"
if [ "$lost" ]; then
  check "pages are lost" test "${found##*=}" -gt 0
else
  check "no page is lost" test "${found##*=}" = 0
fi

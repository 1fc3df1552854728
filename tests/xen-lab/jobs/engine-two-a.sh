# shellcheck shell=bash
# The first of two hosts: protects a guest with this project's own engine. Parameters: type, interval, checkpoints; disk=1, the guest has a
# disk, behind this project's daemons; and what happens then:
#   fault=primary     this host dies
#   fault=secondary   the second host dies; the guest runs on, and is protected again, by a receiver of this host
#   fault=link        nothing gets through any more; one of the two goes on, and is protected again where that is this one
: "${type:=pvh}" "${interval:=200}" "${checkpoints:=6}" "${fault:=primary}"
second=10.9.0.2
name=protected
one_failure_ends
share_witness
export net_own=10.9.0.9 net_to=10.9.0.1
bridge $net_to/24 eth0
eventually 300 ping -c 1 -W 1 $second >/dev/null || broken "the second host is not there"

protection=(-F -d)
if [ "${disk:=}" ]; then
  disk=/dev/nbd0
  protection=()
  eventually 300 test -e /witness/keeper || broken "nobody keeps the disk"
  truncate -s 4M disk.image
  xen-replicate disk serve --device $disk --to "exec:socat - TCP:$second:7002" disk.image >disk.log 2>&1 &
  check "the guest's disk appears" eventually 120 attached 8192
fi
start_guest $name "$type"
converse $net_own
eventually 300 test -e /witness/listening || broken "nobody listens at the second host"
xen-replicate remus "${protection[@]}" -i "$interval" "${both[@]}" --allow-private $name tcp:$second:7001 >engine.log 2>&1 &
export engine=$!
check "$checkpoints checkpoints are acknowledged" acknowledged $name "$checkpoints" 700
check "the guest runs on meanwhile" reaches $name $(($(counted $name) + 3)) 120
check "a client at the second host is answered" eventually 300 test -e /witness/answered
check "a client here is answered, and not contradicted" answered 1
check "its connection is there" sound
[ -z "$disk" ] || check "the disk is the guest's own" disk_right $name 40 240
timeout 10 xen-replicate ctl $name status >engine.status 2>&1
tc -s qdisc >qdiscs 2>&1

# free: what is told of an engine that has nobody to wait for.
free() {
  check "the guest runs on" reaches $name $(($(counted $name) + 5)) 120
  check "the client is answered without a checkpoint" eventually 120 answered $(($(answers) + 5))
  check "and not contradicted" sound
}

case $fault in
primary)
  conclude 0
  # Whoever started this host takes its power away now.
  touch /share/kill-me
  sleep infinity
  ;;
secondary)
  touch /witness/end-second
  check "the guest is unprotected, and that is told" says engine.log UNPROTECTED 300
  free
  # A host that comes later: this one, as there is no third.
  xen-replicate receive --domain $name --once --listen unix:again.link --control again.ctl "${both[@]}" >again.log 2>&1 &
  eventually 60 test -S again.link
  check "it is protected again" timeout 600 xen-replicate ctl $name --timeout 580 protect unix:again.link
  check "$checkpoints checkpoints more" acknowledged $name $(($(acknowledged_by $name) + checkpoints)) 600
  check "the guest runs on under protection" reaches $name $(($(counted $name) + 3)) 120
  check "the client is answered" eventually 120 answered $(($(answers) + 3))
  check "and was never contradicted" sound
  kill -TERM "$engine"
  wait "$engine"
  check "the engine ends as told" test $? = 1
  check "the copy is gone with it" eventually 120 absent $name--incoming
  ;;
link)
  # Frames go no further than this host.
  ip link set eth0 nomaster
  check "who goes on is decided" says engine.log 'UNPROTECTED\|FENCED' 400
  if grep -q FENCED engine.log; then outcome=fenced; else outcome=alone; fi
  echo $outcome >/witness/outcome-a
  check "at the second host too" eventually 400 test -s /witness/outcome-b
  note outcome "$outcome here, $(cat /witness/outcome-b) there"
  case $outcome,$(cat /witness/outcome-b) in
  alone,ended)
    check "one of the two goes on" true
    free
    ip link set eth0 master lab
    touch /witness/mended
    eventually 120 test -e /witness/listening-again
    check "it is protected again" timeout 700 xen-replicate ctl $name --timeout 680 protect tcp:$second:7001
    check "$checkpoints checkpoints more" acknowledged $name $(($(acknowledged_by $name) + checkpoints)) 600
    ;;
  fenced,active)
    check "one of the two goes on" true
    before=$(counted $name)
    # Time enough for the other.
    check "the other goes on" eventually 400 test -e /witness/gone-on
    check "this one stands still" test "$(counted $name)" = "$before"
    ;;
  *) check "one of the two goes on" false ;;
  esac
  touch /witness/done-a
  check "the second host is content" eventually 400 test -e /witness/done-b
  ;;
*) broken "no such fault: $fault" ;;
esac

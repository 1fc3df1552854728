# shellcheck shell=bash
# The second of two hosts: keeps a copy for the first, and talks to the guest from outside. Parameters: those of engine-two-a.
: "${fault:=primary}" "${checkpoints:=6}"
name=protected
copy=$name--incoming
one_failure_ends
share_witness
export net_to=10.9.0.2
bridge $net_to/24 eth0
listen() {
  xen-replicate receive --domain $name --once --listen tcp:$net_to:7001 --allow-private "${both[@]}" >"$1" 2>&1 &
  receiver=$!
  until ss -ltn | grep -q :7001 || ! kill -0 $receiver; do sleep 0.2; done
}
if [ "${disk:=}" ]; then
  disk=/dev/nbd0
  truncate -s 4M disk.image
  # In the place of ssh, which this host has not.
  xen-replicate disk keep --overwrite --device $disk --listen "unix:$work/disk.link" disk.image >disk.log 2>&1 &
  socat TCP-LISTEN:7002,reuseaddr,fork "UNIX-CONNECT:$work/disk.link" &
  check "the keeper listens" eventually 60 test -S disk.link
  touch /witness/keeper
fi
listen receiver.log
touch /witness/listening
says receiver.log 'passive' 900 || broken "no primary came"
converse 10.9.0.9
eventually 700 answered 3 || broken "the guest does not answer"
touch /witness/answered

# survives: what is asked of the copy.
survives() {
  check "our receiver takes over" says receiver.log 'the guest runs here' 900
  check "the guest goes on behind the failover" reaches $copy $(($(counted $copy) + 3)) 240
  check "it has its own name" exists $name
  check "the client's conversation goes on" eventually 300 answered $(($(answers) + 3))
  check "and nothing that it was told is taken back" sound
  note silence "$(longest_silence)"
  if [ "$disk" ]; then
    check "the disk is that of the checkpoint" disk_right $copy 40 240
    xen-replicate disk status $disk >disk.status 2>&1
    check "and in service here" grep 'in service' disk.status
  fi
  check "the engine answers for the survivor" timeout 20 xen-replicate ctl $name status
}

case $fault in
primary) survives ;;
secondary)
  eventually 900 test -e /witness/end-second || broken "not asked to die"
  check "it lived until then" kill -0 $receiver
  conclude 0
  touch /share/kill-me
  sleep infinity
  ;;
link)
  # gone: the receiver has ended, or taken over.
  gone() { grep -q 'the guest runs here' receiver.log || ! kill -0 $receiver 2>/dev/null; }
  check "who goes on is decided" eventually 1200 gone
  if kill -0 $receiver 2>/dev/null; then echo active; else echo ended; fi >/witness/outcome-b
  eventually 400 test -s /witness/outcome-a
  if [ "$(cat /witness/outcome-b)" = active ]; then
    survives
    touch /witness/gone-on
  else
    check "nothing of the copy is left" eventually 120 absent $copy
    check "and it has not run" test "$(counted $copy)" = 0
    eventually 400 test -e /witness/mended
    listen again.log
    touch /witness/listening-again
  fi
  touch /witness/done-b
  check "the first host is content" eventually 1200 test -e /witness/done-a
  ;;
esac

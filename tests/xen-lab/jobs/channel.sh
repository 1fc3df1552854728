# shellcheck shell=bash
# A guest that offers a suspend event channel: our engine asks by it, and Xen answers by it. Parameters: type, interval, checkpoints.
: "${type:=pvh}" "${interval:=200}" "${checkpoints:=6}"
export suspend_channel=1
start_guest guest "$type"
domid=$(xl domid guest)
offered() { [ -n "$(xenstore-read "/local/domain/$domid/device/suspend/event-channel")" ]; }
eventually 60 offered || broken "the guest offers no channel"

xen-replicate remus -F -n -d -b -i "$interval" guest nowhere >channel.log 2>&1 &
engine=$!
check "$checkpoints checkpoints of a guest that is asked by an event" acknowledged guest "$checkpoints" 600
check "it is asked by an event" grep -aq 'suspend event channel' channel.log
check "nobody else can ask meanwhile" test -e "/var/run/xen/suspend-evtchn-$domid.lock"
check "the guest runs on meanwhile" reaches guest $(($(counted guest) + 3)) 120
kill -TERM $engine
wait $engine
check "the engine ends as told" test $? = 1
check "the lock is gone" test ! -e "/var/run/xen/suspend-evtchn-$domid.lock"
check "the guest goes on behind the engine" reaches guest $(($(counted guest) + 3)) 120

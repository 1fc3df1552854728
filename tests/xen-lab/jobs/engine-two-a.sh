# shellcheck shell=bash
# The first of two hosts: protects a guest with this project's own engine, and is killed. Parameters: type, interval, checkpoints.
: "${type:=pvh}" "${interval:=200}" "${checkpoints:=6}"
second=10.9.0.2
share_witness
for ((i = 0; i < 200; i++)); do
  ping -c 1 -W 1 $second >/dev/null && break
done
ping -c 1 -W 5 $second >/dev/null || broken "the second host is not there"

start_guest protected "$type"
for ((i = 0; i < 600; i++)); do
  [ -e /witness/listening ] && break
  sleep 0.5
done
xen-replicate remus -F -n -d -i "$interval" "${both[@]}" --allow-private protected tcp:$second:7001 >engine.log 2>&1 &
export engine=$!
check "$checkpoints checkpoints are acknowledged" acknowledged protected "$checkpoints" 700
check "the guest runs on meanwhile" reaches protected $(($(counted protected) + 3)) 120
timeout 10 xen-replicate ctl protected status >engine.status 2>&1
conclude 0
# Whoever started this host takes its power away now.
touch /share/kill-me
sleep infinity

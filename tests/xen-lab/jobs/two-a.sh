# shellcheck shell=bash
# The first of two hosts: sends one guest to the second by live migration, protects another with Remus, and is killed. Parameters: type,
# sender, interval, checkpoints, as in helper.sh.
: "${type:=pvh}" "${sender:=ours}" "${interval:=200}" "${checkpoints:=8}"
second=10.9.0.2
for ((i = 0; i < 200; i++)); do
  ping -c 1 -W 1 $second >/dev/null && break
done
ping -c 1 -W 5 $second >/dev/null || broken "the second host is not there"

start_guest moved "$type"
check "migrate exits with 0" timed migrate xl_as "$sender" migrate -s /lab/dial moved $second 2>migrate.log
check "the migrated guest is gone from here" absent moved

start_guest protected "$type"
xl_as "$sender" remus -F -n -d -i "$interval" -s /lab/dial protected $second 2>remus.log &
check "remus makes $checkpoints checkpoints" suspended "$checkpoints" remus.log 240
check "the guest runs on under remus" reaches protected $(($(counted protected) + 3)) 120
conclude 0
# Whoever started this host takes its power away now.
touch /share/kill-me
sleep infinity

# shellcheck shell=bash
# The second of two hosts: keeps a copy, until the first host is dead.
share_witness
xen-replicate receive --domain protected --once --listen tcp:10.9.0.2:7001 --allow-private "${both[@]}" >receiver.log 2>&1 &
receiver=$!
until grep -q 7001 <(ss -ltn 2>/dev/null) || ! kill -0 $receiver; do sleep 0.2; done
touch /witness/listening
says receiver.log 'passive' 900 || broken "no primary came"
check "our receiver takes over when its primary's host is dead" says receiver.log 'the guest runs here' 900
check "the guest goes on behind the failover" reaches protected--incoming $(($(counted protected--incoming) + 3)) 240
check "it has its own name" exists protected
check "the engine answers for the survivor" timeout 20 xen-replicate ctl protected status

# shellcheck shell=bash
# The second of two hosts: takes one guest by live migration and one by Remus, until the first host is dead. Parameters: receiver.
: "${receiver:=ours}"
receiver_helper=$(helper "$receiver")
export receiver_helper
# A host that vanishes sends nothing any more, not even that: TCP has to ask.
socat TCP-LISTEN:7000,reuseaddr,fork,nodelay,keepalive,keepidle=4,keepintvl=2,keepcnt=5 EXEC:/lab/answer,pipes &

reaches moved--incoming 1 900 || broken "no guest came"
before=$(counted moved--incoming)
check "the migrated guest goes on" reaches moved--incoming $((before + 3)) 120
check "the migrated guest has its name" exists moved
says remus-receiver.log 'xl' 900 || broken "no stream of remus came"
check "the receiver fails over" says remus-receiver.log Failover 900
check "the guest goes on behind the failover" reaches protected--incoming $(($(counted protected--incoming) + 3)) 120
check "the secondary has the domain's name" exists protected
check "the migrated guest still goes on" reaches moved--incoming $(($(counted moved--incoming) + 3)) 120

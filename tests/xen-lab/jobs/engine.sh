# shellcheck shell=bash
# This project's own engine on one host, without xl remus. Parameters: type, interval, checkpoints, steps:
#   nowhere   the checkpoints go nowhere; SIGTERM ends it, the guest goes on
#   stock     the stock `xl migrate-receive -r` receives; the engine and the domain die, the guest goes on there
: "${type:=pvh}" "${steps:=nowhere stock}" "${interval:=200}" "${checkpoints:=6}"
name=guest
incoming=$name--incoming
current=$name
start_guest $name "$type"
export RUST_LOG=debug

# acknowledged COUNT SECONDS: so many checkpoints are acknowledged by now.
acknowledged() {
  local end=$((EPOCHSECONDS + $2)) now
  while :; do
    now=$(timeout 10 xen-replicate ctl $name status --json 2>/dev/null | grep -o '"acknowledged":[0-9]*' | grep -o '[0-9]*$')
    [ "${now:-0}" -ge "$1" ] && return
    [ $EPOCHSECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

for step in $steps; do
  say "== $step, $type"
  case $step in
  nowhere)
    xen-replicate remus -F -b -n -d -i "$interval" $name nowhere >nowhere.log 2>&1 &
    engine=$!
    check "$checkpoints checkpoints go nowhere" acknowledged "$checkpoints" 240
    check "the guest runs on meanwhile" reaches $current $(($(counted $current) + 3)) 120
    timeout 10 xen-replicate ctl $name status >nowhere.status 2>&1
    kill -TERM $engine
    wait $engine
    check "the engine ends as told" test $? = 1
    check "the guest goes on behind the engine" reaches $current $(($(counted $current) + 3)) 120
    ;;
  stock)
    export receiver_helper=$stock receiver_log=$work/stock-receiver.log
    xen-replicate remus -F -n -d -i "$interval" -s /lab/receiver --allow-bare --remote-command 'xl migrate-receive -r' $name localhost \
      >stock.log 2>&1 &
    engine=$!
    check "$checkpoints checkpoints go to the stock receiver" acknowledged "$checkpoints" 240
    check "the guest runs on meanwhile" reaches $current $(($(counted $current) + 3)) 120
    kill -KILL $engine
    xl destroy $name
    check "the stock receiver fails over" says stock-receiver.log Failover 120
    check "the guest goes on behind the failover" reaches $incoming $(($(counted $incoming) + 3)) 120
    xl rename $incoming $name
    current=$incoming
    ;;
  *) broken "no such step: $step" ;;
  esac
  [ -s failures ] && break
done
xl list

# shellcheck shell=bash
# This project's own engine on one host, without xl remus. Parameters: type, interval, checkpoints, and the steps:
#   nowhere   the checkpoints go nowhere; SIGTERM ends it, the guest goes on
#   stock     the stock `xl migrate-receive -r` receives; the engine and the domain die, the guest goes on there
#   ours      our receiver, with a witness; the engine and the domain die, the guest goes on there under its own name
#   again     behind `ours`: the survivor is protected again, and switched over on demand
#   dropped   our receiver dies: it must not take over, nothing of its copy may be left, the guest goes on
#   bare      a stock `xl remus` into our receiver, and dies
#   refused   input of no use: a message, the guest goes on, nothing is left behind
#   nomemory  the receiver's host has no memory for the copy: the same
#   dies      the guest's domain is destroyed meanwhile: the engine and the copy end too, nothing is left behind; nor is the guest
# With net=1 the guest has a network card and its output is held in `ours`: what the outside was told must be known to the survivor. With
# net=script a script of the job's own sets up the buffer, as the stock remus-netbuf-setup would, which Debian does not have.
: "${type:=pvh}" "${steps:=nowhere stock}" "${interval:=200}" "${checkpoints:=6}"
name=guest
incoming=$name--incoming
current=$name
# How the engine is told to go without a buffer.
without=(-F -n -d)
held=("${without[@]}")
if [ "${net:-}" ]; then
  export net_own=10.8.0.9 net_to=10.8.0.1
  bridge $net_to/24
  held=(-F -d)
  if [ "$net" = script ]; then
    cat >/lab/netbuf <<'SH'
#!/bin/bash
set -e
case $1 in
setup)
  ip link add ifb-lab type ifb
  ip link set ifb-lab up
  tc qdisc add dev "$vifname" ingress
  tc filter add dev "$vifname" parent ffff: proto ip prio 10 u32 match u32 0 0 action mirred egress redirect dev ifb-lab
  tc qdisc add dev ifb-lab root plug limit 10000000
  xenstore-write "$XENBUS_PATH/ifb" ifb-lab
  ;;
teardown)
  # A card may be gone, and its keys with it.
  tc qdisc del dev "$vifname" ingress || true
  ip link del "$REMUS_IFB"
  xenstore-rm "$XENBUS_PATH/ifb" || true
  ;;
esac
echo "$* $vifname $XENBUS_PATH $REMUS_IFB" >>/lab/work/netbuf.calls
SH
    chmod 755 /lab/netbuf
    held+=(-N /lab/netbuf)
  fi
  converse $net_own
fi
start_guest $name "$type"
mkdir -p witness

one_failure_ends

# What both sides are told: an emulated host may be silent for a while, and the first image takes its time.
both=(--witness "$work/witness" --heartbeat 2000 --timeout 20000 --answer-timeout 400000)

# clean: nothing is left behind but guests and domain 0: no redirection, no IFB, no key of a buffer.
clean() {
  [ "$(xl list | grep -c incoming)" = 0 ] && ! xenstore-ls -f /libxl | grep remus && ! ip link | grep ': \(xr\|ifb-\)' && ! tc qdisc | grep -E 'ingress|plug'
}

# ended PID: that process is no more.
ended() { ! kill -0 "$1" 2>/dev/null; }

heard_more() { [ "$(told)" -gt "$1" ]; }

# kill_engine: what the death of the primary's host takes along.
kill_engine() {
  kill -KILL "$engine"
  xl destroy $name
  # What a host that dies does not leave behind.
  ip -o link | grep -o ' xr[0-9.]*e\?\| ifb-lab' | while read -r ifb; do ip link del "$ifb"; done
}

# receive_at SOCKET ARGUMENT...: our receiver, listening.
receive_at() {
  local socket=$1
  shift
  xen-replicate receive --domain $name --once --listen "unix:$socket" --control "$socket.ctl" "${both[@]}" "$@" >"$socket.log" 2>&1 &
  receiver=$!
  until [ -S "$socket" ]; do sleep 0.1; done
}

for step in $steps; do
  say "== $step, $type"
  case $step in
  nowhere)
    xen-replicate remus "${without[@]}" -b -i "$interval" $name nowhere >nowhere.log 2>&1 &
    engine=$!
    check "$checkpoints checkpoints go nowhere" acknowledged $name "$checkpoints" 600
    check "the guest runs on meanwhile" reaches $current $(($(counted $current) + 3)) 120
    timeout 10 xen-replicate ctl $name status >nowhere.status 2>&1
    kill -HUP $engine
    check "a terminal that is gone ends nothing" acknowledged $name $((checkpoints + 10)) 120
    kill -TERM $engine
    wait $engine
    check "the engine ends as told" test $? = 1
    check "the guest goes on behind the engine" reaches $current $(($(counted $current) + 3)) 120
    ;;
  stock)
    export receiver_helper=$stock receiver_log=$work/stock-receiver.log
    xen-replicate remus "${without[@]}" -i "$interval" -s /lab/receiver --allow-bare --remote-command 'xl migrate-receive -r' $name localhost \
      >stock.log 2>&1 &
    engine=$!
    check "$checkpoints checkpoints go to the stock receiver" acknowledged $name "$checkpoints" 600
    check "the guest runs on meanwhile" reaches $current $(($(counted $current) + 3)) 120
    kill_engine
    check "the stock receiver fails over" says stock-receiver.log Failover 120
    check "the guest goes on behind the failover" reaches $incoming $(($(counted $incoming) + 3)) 120
    check "no step is lost but since the last checkpoint" test "$(first_counted $incoming)" -le $(($(counted $current) + 1))
    absent $name && xl rename $incoming $name
    current=failed-over-stock
    mv "$(console $incoming)" "$(console $current)"
    ;;
  ours)
    receive_at b.link
    xen-replicate remus "${held[@]}" -i "$interval" "${both[@]}" $name unix:b.link >ours.log 2>&1 &
    engine=$!
    check "$checkpoints checkpoints are acknowledged by our receiver" acknowledged $name "$checkpoints" 600
    check "the guest runs on meanwhile" reaches $current $(($(counted $current) + 3)) 120
    timeout 10 xen-replicate ctl $name status >ours.status 2>&1
    if [ "${net:-}" ]; then
      tc -s qdisc >ours.qdiscs 2>&1
      [ "$net" != script ] || check "the script has set the buffer up" grep -q '^setup' netbuf.calls
      check "the outside is told meanwhile" test "$(told)" -gt 0
      check "a client is answered" eventually 300 answered 3
    fi
    kill_engine
    before=$(told)
    had=$(answers)
    check "our receiver takes over" says b.link.log 'the guest runs here' 240
    check "the guest goes on behind the failover" reaches $incoming $(($(counted $incoming) + 3)) 120
    check "no step is lost but since the last checkpoint" test "$(first_counted $incoming)" -le $(($(counted $current) + 1))
    check "it has its own name again" exists $name
    if [ "${net:-}" ]; then
      check "the outside was told nothing that never was" test "$before" -le "$(first_counted $incoming)"
      check "the outside hears of it again" eventually 120 heard_more "$before"
      check "the client's conversation goes on" eventually 300 answered $((had + 3))
      check "and nothing that it was told is taken back" sound
      note silence "$(longest_silence)"
    fi
    current=failed-over
    mv "$(console $incoming)" "$(console $current)"
    ;;
  again)
    survivor=$receiver
    engine=$survivor
    receive_at c.link
    check "the survivor takes a secondary" timeout 600 xen-replicate ctl $name --control b.link.ctl --timeout 580 protect unix:c.link
    check "$checkpoints checkpoints of the survivor" acknowledged $name "$checkpoints" 600 --control b.link.ctl
    check "the survivor goes on meanwhile" reaches $current $(($(counted $current) + 3)) 120
    check "it is switched over" timeout 600 xen-replicate ctl $name --control b.link.ctl --timeout 580 switch-over
    wait "$survivor"
    check "the survivor is gone as asked" test $? = 0
    check "the guest goes on behind the switch-over" reaches $incoming $(($(counted $incoming) + 3)) 120
    check "one domain is left" test "$(xl list | grep -c "^$name")" = 1
    [ -z "${net:-}" ] || {
      check "the client's conversation goes on" eventually 300 answered $(($(answers) + 3))
      check "and nothing that it was told is taken back" sound
    }
    current=switched-over
    mv "$(console $incoming)" "$(console $current)"
    kill -TERM $receiver
    wait $receiver
    check "the guest goes on without any engine" reaches $current $(($(counted $current) + 3)) 120
    # On one and the same host the primary had the name until it was gone.
    xl rename $incoming $name
    ;;
  dropped)
    receive_at d.link
    xen-replicate remus "${held[@]}" -i "$interval" "${both[@]}" $name unix:d.link >dropped.log 2>&1 &
    engine=$!
    check "a checkpoint is acknowledged" acknowledged $name 2 600
    kill -KILL $receiver
    check "the guest goes on when the secondary dies" says dropped.log UNPROTECTED 240
    check "and counts" reaches $current $(($(counted $current) + 3)) 120
    check "nothing of the copy is left" eventually 120 absent $incoming
    check "the copy has not run" test "$(counted $incoming)" = 0
    kill -TERM $engine
    wait $engine
    check "the engine ends as told" test $? = 1
    check "nothing is left behind" clean
    ;;
  bare)
    xl_as "${sender:=ours}" remus -F -n -d -i "$interval" -s '' $name \
      "exec xen-replicate receive --bare --domain $name --no-control --witness $work/witness 2>$work/bare-receiver.log" 2>bare.log &
    remus=$!
    check "a stock xl remus makes $checkpoints checkpoints" suspended "$checkpoints" bare.log 240
    primary=$(xl domid $name)
    kill_primary $remus "$primary"
    check "our receiver takes over from a stock sender" says bare-receiver.log 'the guest runs here' 240
    check "the guest goes on behind it" reaches $incoming $(($(counted $incoming) + 3)) 120
    check "it has its own name" exists $name
    current=bare
    mv "$(console $incoming)" "$(console $current)"
    kill -TERM "$(pgrep -f 'receive --bare')"
    ;;
  refused)
    refuses() {
      local words=$1
      shift
      timeout 200 xen-replicate remus "$@" >refused.out 2>&1
      local rc=$?
      cat refused.out >>refused.log
      [ $rc = 2 ] && grep -q "$words" refused.out
    }
    check "no such domain" refuses 'no domain "none"' -F -n -d none nowhere
    check "no such number" refuses 'no domain 77' -F -n -d 77 nowhere
    check "domain 0" refuses 'host itself' -F -n -d Domain-0 nowhere
    on_another_xen() { LD_PRELOAD=/lab/other-xen.so "$@"; }
    check "a Xen of another version" on_another_xen refuses 'another version' -F -b -n -d $name nowhere
    xl pause $name
    xen-replicate remus -F -b -n -d --once --suspend-timeout 10 $name nowhere >paused.log 2>&1
    check "a guest that does not answer ends it" test $? = 1
    check "and is told of" grep -q 'did not acknowledge' paused.log
    xl unpause $name
    check "the request is taken back, the guest goes on" reaches $current $(($(counted $current) + 3)) 120
    if [ "${net:-}" ]; then
      module=$(modinfo -n ifb)
      rmmod ifb
      mv "$module" "$module.away"
      check "no IFB" refuses 'kernel module ifb' -F -b -d $name nowhere
      mv "$module.away" "$module"
    fi
    check "nothing is left behind" clean
    ;;
  nomemory)
    # What is there goes to a domain that never runs, but for what is less than a guest.
    {
      printf 'name = "filler"\ntype = "pvh"\ntsc_mode = "native"\n'
      printf 'kernel = "/lab/%s"\nmemory = %d\n' "$guest_kernel" $(($(xl info free_memory) - memory_mb / 2 - 20))
    } >filler.cfg
    timeout 300 xl create -p filler.cfg >filler.log 2>&1 || broken "no domain that takes the memory"
    note left_mb "$(xl info free_memory)"
    receive_at n.link
    xen-replicate remus "${held[@]}" --once --refusals 1 -i "$interval" "${both[@]}" $name unix:n.link >nomemory.log 2>&1
    check "a receiver without memory ends it" test $? = 1
    check "the primary tells why" grep -q 'no domain for the image' nomemory.log
    check "the guest goes on" reaches $current $(($(counted $current) + 3)) 120
    kill -TERM $receiver 2>/dev/null
    xl destroy filler
    check "nothing is left behind" eventually 120 clean
    ;;
  dies)
    receive_at e.link
    xen-replicate remus "${held[@]}" -i "$interval" "${both[@]}" $name unix:e.link >dies.log 2>&1 &
    engine=$!
    check "a checkpoint is acknowledged" acknowledged $name 2 600
    domid=$(xl domid $name)
    xl destroy "$domid"
    check "the engine ends with its guest" eventually 240 ended $engine
    wait $engine
    check "as one that protects nothing" test $? = 1
    check "and says why" grep -q 'ended by itself' dies.log
    [ "${net:-}" != script ] || check "the script has taken the buffer away" grep -q '^teardown' netbuf.calls
    check "the copy ends too" eventually 240 absent $incoming
    check "nothing is left behind" clean
    check "nor any key" test -z "$(xenstore-ls -f | grep -E "^/local/domain/(0/backend/[a-z]*/)?$domid/")"
    ;;
  *) broken "no such step: $step" ;;
  esac
done
xl list

# shellcheck shell=bash
# The save helper under the stock xl, on one host. Parameters:
#   type=pv|pvh|hvm     the guest
#   sender, receiver    stock or ours
#   steps="..."         of save, checkpoint, migrate, remus; any of them more than once
#   interval=MS         of Remus
: "${type:=pvh}" "${sender:=ours}" "${receiver:=ours}" "${steps:=save checkpoint migrate remus}" "${interval:=200}" "${checkpoints:=8}"
name=guest
LIBXL_SAVE_HELPER=$(helper "$sender")
receiver_helper=$(helper "$receiver")
export LIBXL_SAVE_HELPER receiver_helper
one_failure_ends

start_guest $name "$type"
# Whose console the guest writes to. An incoming guest's is called after the name that it has until it is the receiver's own.
current=$name
incoming=$name--incoming

for step in $steps; do
  say "== $step, $type, $sender to $receiver"
  case $step in
  save)
    check "save exits with 0" timed save xl_as "$sender" save $name save.image 2>save.log
    check "the saved domain is gone" absent $name
    note save_bytes "$(stat -c %s save.image)"
    before=$(counted $current)
    check "restore exits with 0" timed restore xl_as "$receiver" restore save.image 2>restore.log
    current=$name
    check "the restored guest goes on" reaches $name $((before + 3)) 120
    rm -f save.image
    ;;
  checkpoint)
    check "save -c exits with 0" timed checkpoint xl_as "$sender" save -c $name checkpoint.image 2>checkpoint.log
    before=$(counted $current)
    check "the guest goes on behind save -c" reaches $current $((before + 3)) 120
    timeout 60 xl destroy $name
    check "restore of the checkpoint exits with 0" xl_as "$receiver" restore checkpoint.image 2>checkpoint-restore.log
    current=$name
    before=$(counted $current)
    check "the guest restored from the checkpoint goes on" reaches $name $((before + 3)) 120
    rm -f checkpoint.image
    ;;
  migrate)
    export receiver_log=$work/migrate-receiver.log
    check "migrate exits with 0" timed migrate xl_as "$sender" migrate -s /lab/receiver $name localhost 2>migrate.log
    check "one domain is left" test "$(xl list | grep -c "^$name")" = 1
    check "the migrated domain has its name" exists $name
    before=$(counted $incoming)
    check "the migrated guest goes on" reaches $incoming $((before + 3)) 120
    current=migrated
    mv "$(console $incoming)" "$(console $current)"
    ;;
  remus)
    export receiver_log=$work/remus-receiver.log
    rm -f "$receiver_log"
    xl_as "$sender" remus -F -n -d -i "$interval" -s /lab/receiver $name localhost 2>remus.log &
    remus=$!
    check "remus makes $checkpoints checkpoints" suspended "$checkpoints" remus.log 120
    check "the guest runs on under remus" reaches $current $(($(counted $current) + 3)) 120
    primary=$(xl domid $name)
    kill_primary $remus "$primary"
    check "the receiver's helper completes" says remus-receiver.log 'complete r=0' 120
    # Where the helper is gone too, what is left to do is xl's.
    if ! says remus-receiver.log Failover 120 && ! pgrep -f -- --restore-domain; then
      aftermath
      broken "xl does not go on behind its helper"
    fi
    check "the receiver fails over" says remus-receiver.log Failover 0
    check "the primary is gone" absent "$primary"
    # On the same host it has its own name only where the primary was gone by then.
    exists $name || xl rename $incoming $name
    check "the secondary is there" exists $name
    check "the guest goes on behind the failover" reaches $incoming $(($(counted $incoming) + 3)) 120
    check "no step is lost but since the last checkpoint" test "$(first_counted $incoming)" -le $(($(counted $current) + 1))
    current=failed-over
    mv --backup=numbered "$(console $incoming)" "$(console $current)"
    ;;
  *) broken "no such step: $step" ;;
  esac
done
xl list

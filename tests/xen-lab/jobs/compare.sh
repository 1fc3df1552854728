# shellcheck shell=bash
# The stock helper and ours side by side, on the same guest in the same host, in turns: seconds of save, restore and live migration, and
# of a Remus checkpoint the milliseconds from the guest's suspension to its resumption. Parameters: type, rounds, interval, checkpoints.
: "${type:=pvh}" "${rounds:=3}" "${interval:=200}" "${checkpoints:=12}"
name=guest
current=$name
incoming=$name--incoming
cp /share/lab/tap /lab/
start_guest $name "$type"

for ((round = 1; round <= rounds; round++)); do
  for which in stock ours; do
    receiver_helper=$(helper $which)
    receiver_log=$work/receiver-$which-$round.log
    export receiver_helper receiver_log
    check "$which: save $round" timed "save $which" xl_as $which save $name save.image 2>"save-$which-$round.log"
    check "$which: restore $round" timed "restore $which" xl_as $which restore save.image 2>"restore-$which-$round.log"
    check "$which: the guest goes on behind restore $round" reaches $name $(($(counted $current) + 3)) 120
    rm -f save.image
    check "$which: migrate $round" timed "migrate $which" xl_as $which migrate -s /lab/receiver $name localhost 2>"migrate-$which-$round.log"
    check "$which: the guest goes on behind migrate $round" reaches $incoming $(($(counted $name) + 3)) 120
    current=$incoming
    [ -s failures ] && break 2
  done
done

# From the answer to suspend (3) to the answer to postcopy (4), in milliseconds; the first is the whole image's.
suspensions() {
  awk '$2 == "ask" { asked = $3 }
    $2 == "answer" && asked == 3 { from = $1 }
    $2 == "answer" && asked == 4 { if (seen++) printf "suspended '"$1"' %.1f\n", ($1 - from) / 1000 }' "$2"
}

for which in stock ours; do
  [ -s failures ] && break
  receiver_helper=$(helper $which)
  receiver_log=$work/remus-receiver-$which.log
  TAP_HELPER=$receiver_helper
  TAP_LOG=$work/tap-$which
  export receiver_helper receiver_log TAP_HELPER TAP_LOG
  LIBXL_SAVE_HELPER=/lab/tap timeout 400 xl -vvv remus -F -n -d -i "$interval" -s /lab/receiver $name localhost 2>"remus-$which.log" &
  remus=$!
  check "$which: $checkpoints checkpoints" suspended "$checkpoints" "remus-$which.log" 240
  primary=$(xl domid $name)
  kill_primary $remus "$primary"
  check "$which: the receiver fails over" says "$receiver_log" Failover 120
  reaches $incoming $(($(counted $incoming) + 3)) 120
  exists $name || xl rename $incoming $name
  check "$which: the domain is back" exists $name
  suspensions $which "$TAP_LOG" >>timings
done

# The median of each, and how ours compares.
awk '{ values[$1, $2] = values[$1, $2] " " $3; if (!seen[$1]++) names[++count] = $1 }
  function median(list, parts, n, i, j, swap) {
    n = split(list, parts)
    for (i = 2; i <= n; i++)
      for (j = i; j > 1 && parts[j - 1] + 0 > parts[j] + 0; j--) { swap = parts[j]; parts[j] = parts[j - 1]; parts[j - 1] = swap }
    return parts[int((n + 1) / 2)]
  }
  END {
    printf "%-10s %10s %10s %8s\n", "median", "stock", "ours", "ratio"
    for (i = 1; i <= count; i++) {
      stock = median(values[names[i], "stock"]); ours = median(values[names[i], "ours"])
      if (stock > 0 && ours > 0) printf "%-10s %10.2f %10.2f %8.2f\n", names[i], stock, ours, ours / stock
    }
  }' timings | tee comparison
check "there is something to compare" grep -q suspended comparison

# shellcheck shell=bash
# The Debian package in a dom0 that has never seen it (`build --package`): installed, `xl remus` and `xl migrate-receive -r` through the wrapper
# on one host, the unit's command, completion, pages, an upgrade of the stock xl underneath, and away again without a trace. The guest is a
# PVH one. Parameters: interval, checkpoints, and the steps:
#   install  looked at closely; also over itself, and the stock xl anew underneath
#   unit     what the unit would start; by hand, for there is no systemd in this dom0
#   ours     xl remus, ours at both ends
#   bare     a stock xl remus into xl migrate-receive -r, which is ours
#   away     removed and purged; nothing is left
: "${interval:=200}" "${checkpoints:=4}" "${steps:=install unit ours bare away}"
one_failure_ends
has() { case " $steps " in *" $1 "*) ;; *) return 1 ;; esac; }
name=guest
incoming=$name--incoming
current=$name
# Other jobs have the programs there.
rm -f /usr/local/bin/xen-replicate /usr/local/bin/xen-replicate-save-helper
cp /share/lab/*.deb /lab/ || broken "no packages: build --package"
# For messages and pages as they are.
export LC_ALL=C

# files: all of this dom0 but what runs, logs and works there.
files() {
  find / -xdev \( -path /lab -o -path /share -o -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log \
    -o -path /var/lib/dpkg -o -path /var/lib/ucf -o -path /var/lib/xen -o -path /var/lib/xenstored \) -prune -o \
    \( -type d -printf 'd %m %U %G %p\n' -o -printf '%y %m %U %G %s %p %l\n' \) | sort
}

# as_ever: what the stock xl says to this and that, with its exit codes.
as_ever() {
  local rc
  for words in help 'help remus' nosuch 'list nobody' domid '-N remus a b' '-x list' 'remus -c' 'migrate-receive x' info; do
    # shellcheck disable=SC2086 # they are words
    timeout 30 xl $words 2>&1 | grep -v -e '^free_' -e '^xend_config' -e '^outstanding'
    rc=${PIPESTATUS[0]}
    echo "$words: $rc"
  done
  xl list | awk '{ print $1, $2, $3, $4 }'
}

# clean: nothing that dpkg knows of these packages has been changed. It prints what has.
clean() { [ -z "$(dpkg -V "$@" 2>&1 | tee -a dpkg-v.log)" ]; }

# ended PID SECONDS: it ends in this time.
ended() {
  local end=$((EPOCHSECONDS + $2))
  while kill -0 "$1" 2>/dev/null; do
    [ $EPOCHSECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# survivor LOG: the receiver that has the guest now. SIGTERM has it leave the guest alone.
leave() {
  local pid
  # Shells that were to start it may be there too, and have its name in their words.
  pid=$(pgrep -x xen-replicate | head -n 1)
  kill -TERM "$pid"
  check "the survivor's receiver ends as told" ended "$pid" 60
  check "and its guest goes on" reaches $current $(($(counted $current) + 3)) 120
}

step_install() {
say "== install"
files >before.files
dpkg-divert --list >before.diversions
as_ever >before.xl
dpkg -i /lab/xen-replicate.deb >install.log 2>&1
check "the package is installed" test $? = 0
dpkg -s xen-replicate >status.log
check "it depends on no release of Xen" eval "grep -q 'Depends:.*libxencall1' status.log && ! grep -E 'Depends:.*(libxenmisc|xen-utils-)[0-9]' status.log"
dpkg -L xen-replicate >list.log
for file in /usr/bin/xen-replicate /usr/lib/xen-replicate/xen-replicate-save-helper /usr/share/doc/xen-replicate/docs/xen.md \
  '/usr/lib/systemd/system/xen-replicate-receive@.service' /usr/share/man/man1/xen-replicate-remus.1.gz; do
  check "$file is there, and listed" eval "test -s '$file' && grep -qx '$file' list.log"
done
check "dpkg finds both packages as they were packed" clean xen-replicate xen-utils-common
check "xl is the wrapper" grep -q XEN_REPLICATE_XL /usr/sbin/xl
as_ever >after.xl
check "and says what it ever said" cmp before.xl after.xl
check "xl remus is ours" eval "xl remus --help | grep -q -e --witness"
check "but for who asks for the stock one" eval "! XEN_REPLICATE_XL=stock xl remus -h | grep -q -e --witness"
check "the helper runs" eval "/usr/lib/xen-replicate/xen-replicate-save-helper --version | grep -q xen-replicate"
zcat /usr/share/man/man1/xen-replicate-remus.1.gz >page.log
check "the page has its options" grep -q 'witness' page.log
# shellcheck disable=SC2016 # for the inner shell
check "completion completes" bash -c '. /usr/share/bash-completion/completions/xen-replicate; COMP_WORDS=(xen-replicate remus --wit) COMP_CWORD=2
  _xen__replicate xen-replicate --wit remus; [ "${COMPREPLY[*]}" = --witness ]'
if [ -e /lab/xen-utils-common.deb ]; then
  dpkg -i --force-confold /lab/xen-utils-common.deb >upgrade.log 2>&1
  check "the stock xl is installed anew underneath" test $? = 0
  check "the wrapper stays in front" grep -q XEN_REPLICATE_XL /usr/sbin/xl
  check "the stock one is behind it" test -L /usr/sbin/xl.distrib
fi
dpkg -i /lab/xen-replicate.deb >again.log 2>&1
check "a second installation is harmless" test $? = 0
as_ever >again.xl
check "xl says what it ever said" cmp before.xl again.xl
}

step_unit() {
  say "== the unit's commands"
  unit='/usr/lib/systemd/system/xen-replicate-receive@.service'
  line() { sed -n "s/^$1=//p" "$unit" | sed "s/%i/$2/g; s/\\$\\$/\$/g"; }
  install -d -m 700 /run/xen-replicate
  # What systemd makes of the line.
  # shellcheck disable=SC2016 # for sed
  start=$(line ExecStart other | sed 's|\${LISTEN}|unix:/run/xen-replicate/other.link|; s/\$OPTIONS//')
  check "it may start" eval "$(line ExecCondition other)"
  check "but not where its domain runs" eval "! $(line ExecCondition Domain-0)"
  $start >unit.log 2>&1 &
  receiver=$!
  check "it listens" eventually 60 test -S /run/xen-replicate/other.link
  check "it waits for a primary" eval "xen-replicate ctl other status | grep -q waiting"
  kill -TERM $receiver
  wait $receiver
  check "SIGTERM ends it" test $? = 0
}

prepare_guest() {
say "== a guest"
start_guest $name pvh
mkdir -p witness /run/beside /etc/xen-replicate
printf '%s\n' '# both sides' --witness "$work/witness" --heartbeat 2000 --timeout 20000 --answer-timeout 400000 \
  >/etc/xen-replicate/remus.options
# In the place of ssh: HOST COMMAND... . This host is the other one, too, but for its sockets.
cat >/lab/beside <<'SH'
#!/bin/bash
shift
unset XEN_REPLICATE_XL
export XEN_REPLICATE_RUN=/run/beside
exec sh -c "$*" 2>>"$beside_log"
SH
chmod 755 /lab/beside
}

step_ours() {
  say "== xl remus, ours at both ends"
  export beside_log=$work/ours-receiver.log
  xl remus -F -n -d -i "$interval" -s /lab/beside $name other >ours.log 2>&1 &
  engine=$!
  check "$checkpoints checkpoints are acknowledged" acknowledged $name "$checkpoints" 600
  check "the guest runs on meanwhile" reaches $current $(($(counted $current) + 3)) 120
  xen-replicate ctl $name status >ours.status
  check "it is the acknowledged protocol" grep -q framed ours.status
  kill -KILL $engine
  xl destroy $name
  check "the other side takes over" says ours-receiver.log 'the guest runs here' 240
  check "the guest goes on there" reaches $incoming $(($(counted $incoming) + 3)) 120
  check "no step is lost but since the last checkpoint" test "$(first_counted $incoming)" -le $(($(counted $current) + 1))
  check "it has its own name again" exists $name
  current=failed-over
  mv "$(console $incoming)" "$(console $current)"
  leave
}

step_bare() {
  say "== a stock xl remus into xl migrate-receive -r, which is ours"
  export beside_log=$work/bare-receiver.log
  XEN_REPLICATE_XL=stock xl -vvv remus -F -n -d -i "$interval" -s /lab/beside $name other 2>bare.log &
  remus=$!
  check "$checkpoints checkpoints of the stock sender" suspended "$checkpoints" bare.log 400
  check "the receiver has learnt the name" eval "xen-replicate ctl --control /run/beside/$name.sock $name status >bare.status 2>&1"
  primary=$(xl domid $name)
  kill_primary $remus "$primary"
  check "the receiver takes over" says bare-receiver.log 'the guest runs here' 240
  check "the guest goes on there" reaches $incoming $(($(counted $incoming) + 3)) 120
  check "no step is lost but since the last checkpoint" test "$(first_counted $incoming)" -le $(($(counted $current) + 1))
  current=failed-over-again
  mv "$(console $incoming)" "$(console $current)"
  leave
}

if has install; then
  step_install
else
  dpkg -i /lab/xen-replicate.deb >install.log 2>&1 || broken "the package cannot be installed"
fi
if has unit; then step_unit; fi
if has ours || has bare; then
  prepare_guest
  if has ours; then step_ours; fi
  if has bare; then step_bare; fi
  xl list
  xl destroy $name || xl destroy $incoming
fi

step_away() {
say "== away"
dpkg -r xen-replicate >remove.log 2>&1
check "the package is removed" test $? = 0
check "xl is the stock one" eval "test -L /usr/sbin/xl && ! test -e /usr/sbin/xl.distrib"
as_ever >removed.xl
check "and says what it ever said" cmp before.xl removed.xl
dpkg -P xen-replicate >purge.log 2>&1
check "it is purged" test $? = 0
files >after.files
dpkg-divert --list >after.diversions
diff before.files after.files >files.diff
check "no file is left, none is missing" test ! -s files.diff
check "no diversion is left" cmp before.diversions after.diversions
check "dpkg knows no more of it" eval "! dpkg -s xen-replicate >/dev/null 2>&1 && ! ls /var/lib/dpkg/info | grep -q xen-replicate"
check "nothing is left in /run" eval "! test -e /run/xen-replicate"
check "the stock package is as it was packed" clean xen-utils-common
}

if has away; then step_away; fi

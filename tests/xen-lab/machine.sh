# shellcheck shell=bash
# One emulated host: boot it, look after it, end it. Needs common.sh.

: "${machine_mb:=3072}" "${dom0_mb:=1024}" "${machine_cpus:=2}"
# Seconds without a sign of life from dom0 after which the emulator counts as hung; booting takes about 20 on an idle machine.
: "${quiet_limit:=240}"
machines=()

# prepare FOLDER JOB [NAME=VALUE...]: what dom0 finds in its share.
prepare() {
  local folder=$1 job=$2 parameter
  shift 2
  rm -rf "$folder" && mkdir -p "$folder/lab"
  cp "$here"/dom0/{init,start,lib.sh,receiver,dial,answer,watched} "$images/guest-initrd" "$XEN_LAB"/{tap,client,other-xen.so} "$XEN_LAB"/helper/xen-replicate{,-save-helper} "$folder/lab/" ||
    die "run build first"
  # Optional, see build.
  [ -e "$XEN_LAB/vmlinuz-small" ] && cp "$XEN_LAB/vmlinuz-small" "$folder/lab/"
  [ -e "$XEN_LAB/package" ] && cp "$XEN_LAB"/package/*.deb "$folder/lab/"
  cp "$here/jobs/$job.sh" "$folder/lab/job"
  chmod 755 "$folder"/lab/{init,start,receiver,dial,answer,watched}
  for parameter; do
    case $parameter in
    [a-z]*=*) printf '%s=%q\n' "${parameter%%=*}" "${parameter#*=}" ;;
    *) die "not a parameter: $parameter" ;;
    esac
  done >"$folder/parameters"
}

# boot FOLDER NAME [QEMU ARGUMENT...]: starts the host that has FOLDER as its share. FOLDER/qemu.pid is the emulator's process.
boot() {
  local folder=$1 name=$2 words=
  shift 2
  [ "${address:-}" ] && words=lab_address=$address
  rm -f "$folder"/{alive,verdict,qemu.pid}
  # AVX, and FPU registers that are switched lazily: programs in dom0 go wrong at random.
  # smap: dom0 dies of a fault that the emulator raises at the wrong privilege level. monitor, rdtscp: Xen or PVH guests fault.
  qemu-system-x86_64 \
    -machine q35 -accel tcg,thread=multi,tb-size=512 -cpu EPYC,+svm,-smap,-monitor,-rdtscp,-avx,-avx2,-fma,-f16c -smp "$machine_cpus" -m "$machine_mb" \
    -nodefaults -no-user-config -display none -no-reboot -monitor none \
    -serial "file:$folder/serial.log" -pidfile "$folder/qemu.pid" \
    -kernel "$images/${hypervisor:-xen.elf}" \
    -append "dom0_mem=${dom0_mb}M,max:${dom0_mb}M dom0_max_vcpus=$machine_cpus console=com1 com1=115200,8n1 loglvl=info guest_loglvl=all cpuidle=no spec-ctrl=no,eager-fpu xpti=no ucode=no" \
    -initrd "$images/vmlinuz console=hvc0 earlyprintk=xen mitigations=off random.trust_cpu=on panic=5 quiet lab_name=$name $words,$images/dom0-initrd" \
    -drive "file=$images/dom0.img,format=raw,if=virtio,snapshot=on,cache=unsafe,file.locking=off" \
    -fsdev "local,id=share,path=$folder,security_model=none" -device virtio-9p-pci,fsdev=share,mount_tag=share \
    -object rng-random,filename=/dev/urandom,id=random -device virtio-rng-pci,rng=random \
    "$@" </dev/null >"$folder/qemu.log" 2>&1 &
  machines+=($!)
}

# finish FOLDER PID SECONDS: waits until the emulator ends, which it is made to at the end of its time or when dom0 is silent for too
# long. Gives 0 where dom0 has left a verdict.
finish() {
  local folder=$1 pid=$2 end=$((EPOCHSECONDS + $3)) heard=$EPOCHSECONDS
  while kill -0 "$pid" 2>/dev/null; do
    [ -e "$folder/alive" ] && heard=$(stat -c %Y "$folder/alive")
    if [ "$EPOCHSECONDS" -ge $end ]; then
      say "${folder##*/}: time is up"
      break
    elif [ $((EPOCHSECONDS - heard)) -ge "$quiet_limit" ]; then
      say "${folder##*/}: no sign of life for $quiet_limit s"
      break
    fi
    sleep 1
  done
  end_machine "$pid"
  [ -s "$folder/verdict" ]
}

end_machine() {
  kill -KILL "$1" 2>/dev/null
  wait "$1" 2>/dev/null
}

# Nothing outlives the script.
end_all() {
  local pid
  for pid in "${machines[@]}"; do end_machine "$pid"; done
}
trap end_all EXIT
trap 'exit 130' INT TERM HUP

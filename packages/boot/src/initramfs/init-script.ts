/**
 * `/init` of the busybox initramfs. It is process 1: it must not end, or the kernel panics.
 *
 * Kernel parameters it reads: `skep.exec`, `skep.channel`, `skep.nonce` (exec-protocol.ts), and `skep.tty=24x80`,
 * the console's rows and columns, which a serial line cannot tell. `TERM=…` reaches it as a variable.
 */
export const INIT_SCRIPT = `#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root
/bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc
/bin/busybox mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
# Without devtmpfs the nodes of the archive have to do.
/bin/busybox mount -t devtmpfs -o nosuid devtmpfs /dev 2>/dev/null
[ -x /bin/ls ] || /bin/busybox --install -s /bin
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec devpts /dev/pts 2>/dev/null
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
[ -f /etc/hostname ] && hostname -F /etc/hostname
ip link set lo up 2>/dev/null

parameter() { # name: its value on the kernel's command line
  for word in $(cat /proc/cmdline); do
    case $word in "$1"=*) echo "\${word#*=}"; return ;; esac
  done
}

power_off() {
  sync
  poweroff -f
  # Not reached where the machine can be switched off.
  while :; do sleep 3600; done
}

for module in /skep/modules/*; do
  [ -f "$module" ] && { insmod "$module" || echo "skep: $module: not loaded" >/dev/console; }
done
[ -f /skep/setup ] && . /skep/setup

encoded=$(parameter skep.exec)
[ -n "$encoded" ] && mkdir -p /skep && echo "$encoded" | base64 -d >/skep/command

if [ -f /skep/command ]; then
  channel=/dev/$(parameter skep.channel)
  [ "$channel" = /dev/ ] && channel=/dev/console
  nonce=$(parameter skep.nonce)
  # Fails where the port has no hardware behind it.
  if ! stty -F "$channel" raw -echo 2>/dev/null; then
    echo "skep: $channel: no such serial port" >/dev/console
    power_off
  fi
  exec 3>"$channel"
  # Where the kernel's messages go out by the same port, they would end up in the output.
  case " console $(cat /sys/class/tty/console/active) " in *" \${channel#/dev/} "*) dmesg -n 1 ;; esac
  printf '\\036skep-begin %s\\n' "$nonce" >&3
  cd /root
  # Through a pipe, as over a network: no columns, no colours, and the command cannot change the port's settings.
  mkfifo /skep/output
  cat /skep/output >&3 &
  copier=$!
  setsid sh /skep/command </dev/null >/skep/output 2>&1 3>&-
  code=$?
  # What the command left running would hold the pipe open.
  for process in /proc/[0-9]*; do
    process=\${process#/proc/}
    [ "$process" = 1 ] || [ "$process" = "$copier" ] || kill -9 "$process" 2>/dev/null
  done
  wait "$copier"
  printf '\\036skep-end %s %d\\n' "$nonce" "$code" >&3
  # Changing a port's settings waits for its output to be sent; closing the console's does not.
  stty -F "$channel" sane
  power_off
fi

size=$(parameter skep.tty)
[ -n "$size" ] && stty -F /dev/console rows "\${size%x*}" cols "\${size#*x}" 2>/dev/null
cd /root
setsid cttyhack sh -l
power_off
`;

#!/bin/bash
# Boots systemd over an overlay of this machine's own root, in namespaces of its own: everything that is installed here
# is there, nothing that happens there is seen here. Called by machine.py under unshare, which gives it the namespaces.
#   boot_machine.sh ROOM CHECKOUT
set -euo pipefail
room=$1 checkout=$2 root=$1/root
mkdir -p "$room"/{upper,work,root,docker}
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$room/upper,workdir=$room/work" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"

# The same hierarchies as outside; the namespace begins at our own group.
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
  mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  while IFS=: read -r _ controllers _; do
    [ -n "$controllers" ] || continue
    mkdir -p "$root/sys/fs/cgroup/${controllers#name=}"
    case $controllers in name=*) options=none,$controllers ;; *) options=$controllers ;; esac
    mount -t cgroup -o "$options" cgroup "$root/sys/fs/cgroup/${controllers#name=}"
  done </proc/self/cgroup
fi

# Docker's own overlays cannot lie on an overlay. /tmp there is empty and the checkout may be on a disk of its own.
mkdir -p "$root/var/lib/docker" "$root$checkout"
mount --bind "$room/docker" "$root/var/lib/docker"
mount --bind -o ro "$checkout" "$root$checkout"

# At its first boot it is new: no services but systemd's own, no state of reconciler, a name of its own.
if [ ! -e "$room/booted" ]; then
  touch "$room/booted"
  rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/reconciler* "$root"/{opt,etc,var/lib}/reconciler \
    "$root"/etc/credstore/reconciler.age.key "$root"/usr/sbin/policy-rc.d
  : >"$root/etc/machine-id"
  echo machine >"$root/etc/hostname"
fi
ip link set lo up

# Not chroot: systemd makes mount namespaces for units, and those begin at the root of ours.
cd "$root"
mkdir -p run/outside
pivot_root . run/outside
mount --make-rshared /
umount --lazy /run/outside
exec /usr/bin/env -i container=reconciler-tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=multi-user.target

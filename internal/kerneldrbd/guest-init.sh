#!/bin/busybox sh
# The guest's first process. Runs in an archive that is unpacked into memory.
export PATH=/bin:/sbin
/bin/busybox mkdir -p /bin /sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
hostname kernel
for module in $(cat /modules/order); do
  parameters=
  [ "$module" = drbd ] && parameters=usermode_helper=/sbin/drbd-helper
  insmod "/modules/$module.ko" $parameters || echo "kerneldrbd: cannot insert $module"
done
echo 1 >/proc/sys/kernel/sysrq
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
# No default route: nothing but the host is reachable.

setsid cat /dev/kmsg >/dev/vport0p1 &
for port in /dev/vport0p*; do
  number=${port#/dev/vport0p}
  [ "$number" = 1 ] || setsid sh /sbin/agent "$number" &
done
while :; do wait; sleep 3600; done

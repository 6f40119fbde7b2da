#!/bin/sh
# What the kernel calls in place of drbdadm: says so in the log, and exits with the
# status that stands in /run/helper/NAME, or 0.
echo "<5>kerneldrbd: helper $*" >/dev/kmsg
if [ -f "/run/helper/$1" ]; then
  exit "$(cat "/run/helper/$1")"
fi
exit 0

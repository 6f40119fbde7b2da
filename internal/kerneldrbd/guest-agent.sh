#!/bin/sh
# Serves one command port: reads a line, the script to run in base64, and answers with
# a line "LENGTH STATUS" and then LENGTH bytes of output, standard error included.
n=$1
exec 3<>"/dev/vport0p$n"
echo "0 0" >&3
while read -r line <&3; do
  echo "$line" | base64 -d >"/run/$n.sh"
  # A session of its own, so that it can be killed with all its children.
  setsid sh "/run/$n.sh" </dev/null >"/run/$n.out" 2>&1 3>&- &
  echo $! >"/run/$n.pid"
  wait $!
  status=$?
  length=$(stat -c %s "/run/$n.out")
  echo "$length $status" >&3
  head -c "$length" "/run/$n.out" >&3
done

#!/bin/sh
# Serves one command port: reads a line, a mark and then the script to run, and answers
# with the script's output, standard error included, and a line "MARK STATUS". Processes
# are dear under emulation: this takes one.
n=$1
exec 3<>"/dev/vport0p$n"
printf '\nready 0\n' >&3
while read -r mark line <&3; do
  (eval "$line") </dev/null >&3 2>&1 3>&- &
  echo $! >"/run/$n.pid"
  wait $!
  printf '\n%s %d\n' "$mark" $? >&3
done

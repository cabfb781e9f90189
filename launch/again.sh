#!/usr/bin/env bash
# Runs a command again for as long as its exit status shows that this helps: `again.sh COMMAND ...`
#
# Statuses: see launch/README.md. MOST (default 20) bounds how often, PAUSE (default 10) is the seconds between.
set -u

most=${MOST:-20}
pause=${PAUSE:-10}

# A signal to this script is passed to the command, which then saves and ends; it is not started again.
signalled=
child=
trap 'signalled=1; [ -n "$child" ] && kill -INT "$child"' INT
trap 'signalled=1; [ -n "$child" ] && kill -TERM "$child"' TERM
trap 'signalled=1; [ -n "$child" ] && kill -USR1 "$child"' USR1

for ((start = 0; start <= most; start++)); do
    "$@" &
    child=$!
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do  # a signal ended `wait` before the command has ended
        wait "$child"
        status=$?
    done
    case $status in
        75 | 137 | 138 | 143) ;;
        *) exit "$status" ;;
    esac
    [ -n "$signalled" ] && exit "$status"
    echo "again.sh: status $status, starting again in $pause s" >&2
    sleep "$pause"
done
echo "again.sh: started $((most + 1)) times; giving up" >&2
exit "$status"

#!/bin/sh
':' /* The shell runs the lines of this comment, the last of them Node.js, which runs what comes after it.

# Extra certificates cost every start of Node.js 40 ms, and the client talks to a local socket only.
unset NODE_EXTRA_CA_CERTS NODE_OPTIONS ISULABUILD_TURN

# Where more is to run than there are processors, clients of a user start in turn, as many at a time as there are
# processors, and the turn ends when the daemon has been asked (turn.ts). All at once they take no less time, and none is
# ready before nearly all are. Who is stopped in its turn (a debugger, Ctrl-Z) holds up others for five seconds at most.
# A turn is the lock of a file where nobody else can put one. Names that somebody may have exported stay as they are.
turn() {
  read -r _ _ _ isulabuild_tasks _ </proc/loadavg
  [ "${isulabuild_tasks%%/*}" -gt $# ] && [ ! -e /dev/fd/9 ] || return
  while read -r isulabuild_key _ isulabuild_user _; do [ "$isulabuild_key" != Uid: ] || break; done </proc/self/status
  if [ -O "$XDG_RUNTIME_DIR" ]; then isulabuild_place=$XDG_RUNTIME_DIR; elif [ -k /tmp ]; then isulabuild_place=/tmp; else return; fi
  isulabuild_place=$isulabuild_place/isula-build-$isulabuild_user
  [ -d "$isulabuild_place" ] || mkdir -m 700 "$isulabuild_place"
  [ -O "$isulabuild_place" ] && [ ! -h "$isulabuild_place" ] || return
  command exec 9>>"$isulabuild_place/start.$(($$ % $#))" || return
  if flock -w 5 9 </dev/null >/dev/null; then export ISULABUILD_TURN=$$; else exec 9>&-; fi
}
turn /sys/devices/system/cpu/cpu[0-9]* 2>/dev/null || :
unset isulabuild_tasks isulabuild_key isulabuild_user isulabuild_place

# One thread for V8's background jobs: there is next to nothing to do for the usual four, which would be started for it.
exec node --v8-pool-size=1 "$0" "$@"
*/
'use strict'
process.title = '@NAME@'

#!/bin/sh
':' /* The shell runs the lines of this comment, the last of them Node.js, which runs what comes after it.

# Extra certificates cost every start of Node.js 40 ms, and the client talks to a local socket only.
unset NODE_EXTRA_CA_CERTS NODE_OPTIONS ISULABUILD_TURN

# Where more is to run than there are processors, clients of a user start in turn, as many at a time as there are
# processors, and the turn ends when the daemon has been asked (turn.ts). All at once they take no less time, and none is
# ready before nearly all are. Who is stopped in its turn (a debugger, Ctrl-Z) holds up others for five seconds at most.
turn() {
  read -r _ _ _ tasks _ </proc/loadavg
  [ "${tasks%%/*}" -gt $# ] && [ ! -e /dev/fd/9 ] && [ -O "${XDG_RUNTIME_DIR:-$HOME}" ] || return
  own=${XDG_RUNTIME_DIR:-$HOME/.cache}/isula-build
  [ -d "$own" ] || mkdir -p -m 700 "$own"
  command exec 9>>"$own/start.$(($$ % $#))" || return
  if flock -w 5 9; then export ISULABUILD_TURN=$$; else exec 9>&-; fi
}
turn /sys/devices/system/cpu/cpu[0-9]* 2>/dev/null

exec node "$0" "$@"
*/
'use strict'
process.title = '@NAME@'
require('../dist/client/main.cjs')

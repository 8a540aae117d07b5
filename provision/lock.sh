# shellcheck shell=bash
# One builder at a time on a volume.
#
# `.lock/` holds a folder for each turn, by number; the highest one counts. Only one worker can make
# the folder of the next number, and it may once the turn is over: its owner has put `released` into
# it, or has not changed `beat` for LOCK_STALE_SEC while somebody watched. So no clock is compared
# with another machine's, and a turn whose owner was slow or dead at any point passes on.

: "${LOCK_BEAT_SEC:=5}" "${LOCK_LOOK_SEC:=0.5}" "${LOCK_STALE_SEC:=60}" "${LOCK_REPORT_SEC:=15}"
turn='' heart='' work=''
exec {never}<> <(:) # reading from it with a timeout is a sleep without a process

take_turn() { # waits for it; fails where the volume takes no folder
  local limit=${RUNPOD_INIT_TIMEOUT:-420} start=$SECONDS
  [[ $limit =~ ^[1-9][0-9]{0,8}$ ]] || refuse "RUNPOD_INIT_TIMEOUT is '$limit'; allowed: a number of seconds"
  limit=$((limit * 9 / 10))
  local seen='' idle=0 said=$SECONDS look stale latest state owner doing
  milliseconds "$LOCK_LOOK_SEC" && look=$REPLY
  milliseconds "$LOCK_STALE_SEC" && stale=$REPLY
  mkdir -p "$base/.lock" || return
  while :; do
    latest_turn && latest=$REPLY
    slurp "$base/.lock/$latest/beat"
    state=$latest:$REPLY
    # Looks are counted, not the clock: who was frozen, alone or with the owner, saw nothing.
    [[ $state == "$seen" ]] && idle=$((idle + look)) || seen=$state idle=0
    if ((latest == 0 || idle >= stale)) || [[ -e $base/.lock/$latest/released ]]; then
      begin_turn $((latest + 1)) && break
      latest_turn
      ((REPLY > latest)) || return # nobody was faster: no folder can be made here
      continue
    fi
    slurp "$base/.lock/$latest/owner" && owner=${REPLY%$'\n'} || owner='a worker unknown'
    slurp "$base/.lock/$latest/doing" && doing=${REPLY%$'\n'} || doing=starting
    if [[ ! ${prefetch:-} ]] && ((SECONDS - start >= limit)); then
      refuse "gave up after $((SECONDS - start)) s: $owner still prepares $base ($doing), and" \
        "RUNPOD_INIT_TIMEOUT (${RUNPOD_INIT_TIMEOUT:-420} s) is near. Raise it for the first run, or" \
        "fill the volume before with --prefetch"
    fi
    if ((SECONDS - said >= LOCK_REPORT_SEC)); then
      said=$SECONDS
      say "waiting for $owner, which prepares $base ($doing); $((SECONDS - start)) s so far"
    fi
    read -rt "$LOCK_LOOK_SEC" -u "$never"
  done
  ((latest == 0 || idle < stale)) || say "took over from $owner, not heard of for $LOCK_STALE_SEC s"
}

milliseconds() { # SECONDS, with a fraction or without: as REPLY
  local fraction=000
  [[ $1 != *.* ]] || fraction=${1#*.}000
  REPLY=$((10#0${1%%.*} * 1000 + 10#${fraction:0:3}))
}

latest_turn() {
  local entry
  REPLY=0
  for entry in "$base"/.lock/*; do
    entry=${entry##*/}
    [[ $entry =~ ^[0-9]+$ ]] && ((entry > REPLY)) && REPLY=$entry
  done
  return 0
}

begin_turn() { # NUMBER
  mkdir "$base/.lock/$1" 2>/dev/null || return
  latest_turn
  if ((REPLY != $1)); then # the turns before had long been cleared away
    rmdir "$base/.lock/$1"
    return 1
  fi
  turn=$1
  printf '%s\n' "$worker" >"$base/.lock/$turn/owner"
  set -m # in a process group of its own: it has to outlive us by a moment
  beat &
  heart=$!
  set +m
  local entry
  for entry in "$base"/.lock/*; do
    [[ ${entry##*/} == "$turn" ]] || rm -rf -- "$entry"
  done
}

beat() { # in the background: shows life, and ends the work when this worker or its turn is gone
  local count=0 parent
  while :; do
    { printf '%s\n' $((count += 1)) >"$base/.lock/$turn/beat"; } 2>/dev/null
    read -rt "$LOCK_BEAT_SEC" -u "$never"
    read -r _ _ _ parent _ <"/proc/$BASHPID/stat"
    if ((parent != $$)); then
      slurp "$scratch/work" && kill -KILL -- "$REPLY" "-$REPLY"
      exit
    fi
    still_ours || { say "another worker took the lock over" && kill -TERM $$ && exit; }
  done
}

still_ours() { latest_turn && ((REPLY == turn)); }

doing() { # WHAT: for the log and for those who wait
  say "$*"
  printf '%s\n' "$*" >"$base/.lock/$turn/doing"
}

work() { # COMMAND ...: in a session of its own, so that all of it can be ended; output also in $scratch/log
  local out copy status
  exec {out}> >(exec tee "$scratch/log" >&2)
  copy=$!
  work=yes # from here on it is $!, which no signal comes before; if we are killed, it has said itself who it is
  { printf %s "$BASHPID" >"$scratch/work"; exec setsid "$@"; } >&"$out" 2>&1 </dev/null &
  exec {out}>&-
  wait "$!"
  status=$?
  work='' && : >"$scratch/work"
  wait "$copy"
  return "$status"
}

end_turn() { # whatever runs is killed: what is half built counts for nothing
  [[ ! $work ]] || kill -KILL -- "$!" "-$!" # at its very start it is no group yet
  [[ ! $heart ]] || { kill -KILL "$heart" && wait "$heart"; }
  work='' heart=''
  [[ ! $turn ]] || ! still_ours || : >"$base/.lock/$turn/released"
  turn=''
} 2>/dev/null

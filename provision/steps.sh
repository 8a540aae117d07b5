# shellcheck shell=bash
# The steps that make a volume ready. Each looks first whether its part is whole already, so that
# they can be repeated from any state that a kill leaves behind.

NO_ROOM=28 # what a step returns when the disk or the quota is full
KEEP_MINUTES=1440
KEEP_FLAG_DAYS=30
PRODUCTION_MB=7600 # measured: 7,264 MB of packages; flash-attn comes on top

make_ready() {
  local status why
  scratch=$(mktemp -d) || refuse "no temporary folder can be made in ${TMPDIR:-/tmp}"
  trap 'end_turn; rm -rf -- "$scratch"' EXIT
  trap 'exit 143' TERM HUP
  trap 'exit 130' INT
  local -x LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
  local -x GIT_TERMINAL_PROMPT=0 HF_HOME HF_HUB_CACHE
  [[ -x $python ]] || refuse "there is no $python here: install Python 3.12 or set PYTHON"
  [[ ${prefetch:-} ]] || refuse_old_cards

  # 1. On the volume, unless it cannot take what is missing
  status=$NO_ROOM
  if [[ $unattached ]]; then
    why="no network volume is attached at /runpod-volume"
  elif why=$(unfit "$volume"); then
    prepare "$volume"
    status=$?
    ((status != NO_ROOM)) || why="there is no space left on $volume"
  fi
  # 2. Else on the container's own disk
  if ((status == NO_ROOM)); then
    [[ ! ${prefetch:-} ]] || refuse "$why"
    end_turn
    say "!!! $why. This worker uses its container disk, $disk, and so does every new one, from the start"
    why=$(unfit "$disk") || refuse "$why"
    prepare "$disk"
    status=$?
    ((status != NO_ROOM)) || say "there is no space for it in $disk either: enlarge the volume or the container disk"
  fi
  end_turn
  rm -rf -- "$scratch"
  trap - EXIT TERM HUP INT
  return "$status"
}

refuse_old_cards() { # before a model is downloaded for them; the worker itself looks again
  local list name capability old
  needs_gpu || return 0
  list=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null) || return 0
  while IFS=, read -r name capability; do
    # What is no number comes from a driver that does not say.
    [[ $capability =~ ^\ ([0-9]+)\.[0-9]+$ ]] && ((BASH_REMATCH[1] < 8)) || return 0
    old="the GPU $name has compute capability$capability"
  done <<<"$list"
  refuse "$old, and VibeVoice needs 8.0 (Ampere) or newer: choose another GPU for the endpoint"
}

unfit() { # FOLDER: makes it and tries to write there; prints a sentence and fails where that does not work
  local problem parent=${1%/*}
  [[ -d ${parent:-/} || $1 == "$disk" ]] || { echo "there is no $parent: no network volume is attached" && return 1; }
  problem=$({ mkdir -p "$1" && printf '%4096s' . >"$1/.probe-$worker" && rm "$1/.probe-$worker"; } 2>&1) && return
  rm -f "$1/.probe-$worker" 2>/dev/null
  echo "$1 cannot be written to (${problem##*: })"
  return 1
}

prepare() { # FOLDER
  base=$1
  mkdir -p "$base"/{hf_home,hf_cache,models,output,demo,.in-use} || return "$NO_ROOM"
  take_turn || return "$NO_ROOM"
  name_parts
  environment && code && voices && model && finish
}

environment() {
  find_venv "$venv_name" && return
  doing "building the Python environment ($venv_name)"
  local needed=1
  [[ $requirements != *nvidia-cublas-cu12* ]] || needed=$PRODUCTION_MB
  room_for "the Python environment" "$needed" || return
  [[ ${RUNPOD_INIT_TIMEOUT:-} || ${prefetch:-} || ! ${RUNPOD_POD_ID:-} ]] ||
    say "RUNPOD_INIT_TIMEOUT is not set: RunPod ends this worker after 7 minutes, ready or not"
  venv=$base/$venv_name
  rm -rf -- "$venv" # what a killed worker left; whatever has no manifest counts for nothing
  build_environment || failed "the Python environment"
}

build_environment() {
  # Python's own pip where it has one: then the thousand files of a pip need not go to the volume.
  local outcome='' bare=(--without-pip) install=("$python" -m pip --python "$venv/bin/python")
  "$python" -c 'import pip' &>/dev/null || bare=() install=("$venv/bin/python" -m pip)
  install+=(install --progress-bar off --only-binary :all:)
  work "$python" -m venv "${bare[@]}" "$venv" || return
  keep_definition "$venv" "$venv_wanted" || return
  work "${install[@]}" -r "$requirements_file" || return
  if [[ $flash_wheel ]] && ! work "${install[@]}" --no-deps "$flash_wheel"; then
    outcome='none, its wheel could not be had'
    without_login "${flash_wheel%%[?#]*}"
    say "flash-attn could not be installed from $REPLY: the model will use torch's own attention (sdpa)"
  fi
  doing "checking the Python environment"
  still_ours && work "$venv/bin/python" -m provision.environment "$venv" "$outcome"
}

code() {
  find_code "$code_name" && return
  doing "fetching VibeVoice's code ($code_name)"
  rm -rf -- "$base/.building-$code_name" "${base:?}/$code_name"
  room_for "VibeVoice's code" 100 || return
  build_code "$base/.building-$code_name" || failed "VibeVoice's code from $address"
}

build_code() { # FOLDER: beside its place, which it then takes in one step
  local git=(git -C "$1" -c "safe.directory=*" -c advice.detachedHead=false)
  mkdir "$1" || return
  work "${git[@]}" init -q || return
  work "${git[@]}" fetch -q --depth 1 -- "$repository" "$ref" || return
  work "${git[@]}" checkout -q --detach FETCH_HEAD || return
  if [[ ! -f $1/vibevoice/modular/modeling_vibevoice_inference.py ]]; then
    say "there is no VibeVoice that can speak at $ref; check VIBEVOICE_REPO and VIBEVOICE_REF"
    return 1
  fi
  keep_definition "$1" "$code_wanted" || return
  work "$python" provision/manifest.py "$1/.manifest.json" \
    commit="$("${git[@]}" rev-parse HEAD)" bytes="$(du -sb "$1" | cut -f 1)" || return
  code=$base/$code_name
  still_ours && mv -T "$1" "$code"
}

voices() { # upstream's recordings, once; what lies there already is the user's
  [[ -e $base/demo/.voices-filled && $base == "$volume" ]] || copy_voices || failed "the voices"
}

copy_voices() {
  local home=$base/demo/voices voice
  mkdir -p "$home" || return
  [[ $base == "$volume" || ! -d $volume/demo/voices ]] || work cp -rT "$volume/demo/voices" "$home" || return
  for voice in "$code"/demo/voices/*.wav; do
    [[ -f $voice && ! -e $home/${voice##*/} ]] || continue
    work cp "$voice" "$home/.copying" || return
    mv -nT "$home/.copying" "$home/${voice##*/}" || return
  done
  : >"$base/demo/.voices-filled"
}

model() {
  local lines=()
  model=''
  : >"$scratch/files"
  [[ $model_wanted != none ]] || return 0
  doing "looking for the model $MODEL_PATH and downloading what is missing"
  HF_HOME=${hub_home:-$base/hf_home} HF_HUB_CACHE=${hub_cache:-$base/hf_cache}
  VIBEVOICE_VOLUME=$base work "$venv/bin/python" -m provision.model "$scratch/model" || return
  mapfile -t lines <"$scratch/model"
  model=${lines[0]}
  printf '%s\n' "${lines[@]:1}" >"$scratch/files"
}

finish() { # links for people, the flag for warm starts, and old parts go
  still_ours || return
  doing "finishing"
  raise_flag || failed "the flag" || return
  mark_in_use
  [[ $base == "$disk" ]] || remove_old_parts
}

raise_flag() { # one for each set of settings, as the parts are; the link, last of all, is the newest
  link venv "$venv" || return
  link vibevoice "$code" || return
  work "$python" provision/manifest.py "$base/$flag_name" venv="$venv_name" code="$code_name" \
    wanted="$model_wanted" model="${model#"$base"/}" files:="$scratch/files" || return
  link .first_run_complete "$flag_name"
}

link() { # NAME TARGET
  if [[ -d $base/$1 && ! -L $base/$1 ]]; then
    say "$base/$1 is no link of ours and stays as it is; $2 is used"
    return 0
  fi
  ln -sfn "${2#"$base"/}" "$base/.$1.link" && mv -T "$base/.$1.link" "$base/$1"
}

remove_old_parts() { # those that nobody has used for a day
  local part name parts=("$base"/venv-* "$base"/vibevoice-*)
  # Of models the other revisions of this one alone: another endpoint may live on this volume too.
  if [[ $model == "$base"/hf_cache/models--*/snapshots/* ]]; then
    parts+=("${model%/*}"/*)
    remove_abandoned_downloads "${model%/snapshots/*}"
  fi
  find "$base/.in-use" -type f -mmin "+$KEEP_MINUTES" -delete
  # Each start reads all flags; one that is missed is raised again within a second.
  find "$base" -maxdepth 1 -name '.first_run_complete-*' -mtime "+$KEEP_FLAG_DAYS" -delete
  rm -rf -- "$base"/.building-* "$base"/.trash-*
  for part in "${parts[@]}"; do
    name=${part##*/}
    [[ $name =~ (^|-)[0-9a-f]{12,}$ ]] || continue # whatever else is the user's
    [[ -d $part && $name != "$venv_name" && $name != "$code_name" && $part != "$model" ]] || continue
    [[ ! $(find "$part" -maxdepth 0 -mmin "-$KEEP_MINUTES") ]] || continue
    ! in_use "$name" || continue
    remove_flags "$name"
    ! in_use "$name" || continue # by a worker that found its flag until just now
    say "removing $name, which nobody has used for a day"
    mv -T "$part" "$base/.trash-$name" && rm -rf -- "$base/.trash-$name"
  done
  return 0
}

remove_flags() { # PART: those that name it
  local flag
  for flag in "$base"/.first_run_complete-*; do
    ! grep -qsF -- "$1\"" "$flag" || rm -f -- "$flag"
  done
}

remove_abandoned_downloads() { # FOLDER: of revisions that nobody has gone on with for a day
  local part
  for part in "$1"/.*.part; do
    [[ ${part##*/} =~ ^\.[0-9a-f]{40}\.part$ && ! $(find "$part" -mmin "-$KEEP_MINUTES" -print -quit) ]] || continue
    say "removing a download that nobody has gone on with for a day: ${part##*/}"
    rm -rf -- "$part"
  done
}

in_use() { grep -qsxFr -- "$1" "$base/.in-use"; }

room_for() { # WHAT MB: whether it fits by what the system says, which is more than a quota's
  local free kept=0
  free=$(df -m --output=avail "$base") && free=${free##*[[:space:]]}
  # RunPod replaces workers whose container disk is fuller than nine tenths.
  [[ $base != "$disk" || ${prefetch:-} ]] || { kept=$(df -m --output=size "$base") && kept=$((${kept##*[[:space:]]} / 10)); }
  ((free - kept >= $2)) && return
  say "no space in $base: $1 needs $2 MB; $free MB are free, of which $kept MB have to stay so"
  return "$NO_ROOM"
}

failed() { # WHAT: says why, by the last command's output; returns NO_ROOM if it was that
  local log='' reason
  slurp "$scratch/log" && log=$REPLY
  unfit "$base" >/dev/null || log='No space left'
  case $log in
    *'No space left'* | *'Disk quota exceeded'* | *'Errno 28'* | *'Errno 122'*)
      say "no space in $base for $1"
      [[ ! ${venv:-} || -e $venv/.manifest.json ]] || rm -rf -- "$venv"
      rm -rf -- "$base"/.building-*
      return "$NO_ROOM"
      ;;
    *'Could not resolve host'* | *'Temporary failure in name resolution'* | *'Name or service not known'* | \
      *'Network is unreachable'* | *'Connection refused'* | *'Failed to connect'* | *'timed out'*)
      reason="no network, or the other side is not to be reached" ;;
    *'not our ref'* | *"couldn't find remote ref"*) reason="it has no '$ref'; check VIBEVOICE_REF" ;;
    *'Repository not found'* | *'does not appear to be a git repository'* | *'could not read Username'*)
      reason="there is no such repository that can be read; check VIBEVOICE_REPO" ;;
    *'THESE PACKAGES DO NOT MATCH THE HASHES'*) reason="a package is not the one that was pinned" ;;
    *'No matching distribution found'*) reason="a pinned package is on no index that was asked" ;;
    *) reason="the lines above say why" ;;
  esac
  say "$1 could not be had: $reason"
  return 1
}

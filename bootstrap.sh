#!/usr/bin/env bash
# How a worker starts: what its volume lacks is built there first, then it becomes the handler.
#
# A warm start runs no other process. It compares what the volume holds with what is wanted, in bash
# alone, and execs; so nothing here may fork. What builds is in provision/, in Python. A part counts
# as whole when its manifest is there, which is written last, and its definition is, to the letter,
# what is wanted now. Whether a file in it is damaged nobody looks at here: a start that dies of it
# leaves word (provision/begin.py), and the next one repairs.
set -uo pipefail

usage() {
  printf '%s\n' \
    'bootstrap.sh [ARGUMENT ...]   make the volume ready, then exec the handler with the arguments' \
    'bootstrap.sh --prefetch       make the volume ready, on a machine without a GPU too, and exit' \
    'bootstrap.sh --check          show what is there and what is damaged by its size; exit 0 if' \
    '                              nothing is and a start would be warm, else 1' \
    'bootstrap.sh --verify         the same, and compare hashes' \
    'bootstrap.sh --repair         the same as --prefetch; what is damaged is made anew before' \
    'bootstrap.sh --help           this' \
    '' \
    'Settings come from the environment: docs/deploy.md lists them.'
}

main() {
  read_settings
  case ${1-} in
    -h | --help) usage ;;
    --check | --verify)
      mark_in_use() { [[ -w $base/.in-use ]]; } # who only looks uses nothing
      ! everything_in_place || warm=yes
      provision "${1#--}"
      ;;
    --prefetch | --repair)
      prefetch=yes
      [[ $1 == --prefetch ]] || repair=yes
      # An image needs no volume where it has everything.
      [[ $unattached && ! $repair ]] || provision start
      everything_in_place || provision start
      say "everything is in place in $base"
      ;;
    *)
      refuse_without_callers
      refuse_without_driver /dev/nvidiactl /proc/driver/nvidia/version /dev/dxg
      everything_in_place || provision start "$@"
      [[ ! $unattached ]] || say "no network volume is attached: what this worker writes goes with it"
      become_the_worker "$@"
      ;;
  esac
}

say() { printf 'bootstrap: %s\n' "$*" >&2; }
refuse() {
  say "$*"
  exit 1
}

read_settings() {
  unset PYTHONHOME # it is some other Python's
  # Where the caller is counts for relative paths; the code is where this file is.
  local name
  trim MODE ENGINE PYTHON SKIP_MODEL_DOWNLOAD REQUIREMENTS_FILE FLASH_ATTN_WHEEL TMPDIR HOST API_KEYS \
    ALLOW_ANONYMOUS LOG_LEVEL RUNPOD_LOG_LEVEL RUNPOD_INIT_TIMEOUT \
    "${!VIBEVOICE_@}" "${!MODEL_@}" "${!HF_@}" "${!S3_@}" "${!BUCKET_@}"
  for name in VIBEVOICE_{VOLUME,LOCAL,CODE} REQUIREMENTS_FILE HF_HOME HF_HUB_CACHE TMPDIR; do
    expand_home "$name"
    [[ ${!name:-/} == /* ]] || printf -v "$name" %s "$PWD/${!name}"
    while [[ ${!name:-} == ?*/ ]]; do printf -v "$name" %s "${!name%/}"; done
  done
  [[ ${BASH_SOURCE[0]} != */* ]] || cd -- "${BASH_SOURCE[0]%/*}" || exit

  # On the container's own disk: what is baked into the image, and what no volume takes.
  disk=${VIBEVOICE_LOCAL:-/opt/vibevoice}
  volume=${VIBEVOICE_VOLUME:-/runpod-volume/vibevoice}
  unattached='' cached='' warm='' prefetch='' repair=''
  if [[ ! ${VIBEVOICE_VOLUME:-} && ! -e $volume/.first_run_complete ]] &&
    ! outlives_the_worker /runpod-volume /proc/mounts; then
    unattached=yes volume=$disk
  fi
  export VIBEVOICE_VOLUME=$volume
  repository=${VIBEVOICE_REPO:-https://github.com/vibevoice-community/VibeVoice.git}
  ref=${VIBEVOICE_REF:-b9d561240ada3ee5d8fb5812bebb32f7ecfd97ae}
  requirements_file=${REQUIREMENTS_FILE:-$PWD/requirements.txt}
  export MODEL_PATH=${MODEL_PATH:-vibevoice/VibeVoice-7B} MODEL_REVISION=${MODEL_REVISION:-main}
  # The image's and, where that cannot be written to, the volume's: what they have is used.
  export MODEL_CACHES=${MODEL_CACHES:-}:$disk/hf_cache:$volume/hf_cache
  hub_home=${HF_HOME:-}
  hub_cache=${HF_HUB_CACHE:-${hub_home:+$hub_home/hub}}
  worker=${RUNPOD_POD_ID:-$HOSTNAME-$$}
  worker=${worker//[^A-Za-z0-9._-]/_} worker=${worker/#./_} worker=${worker:0:100}

  # What is compiled or cached in passing belongs on the local disk, not on a network volume.
  local cache=${TMPDIR:-/tmp}/vibevoice-cache
  export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$cache} HF_XET_CACHE=${HF_XET_CACHE:-$cache/xet}
  export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
  export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor}
  export NUMBA_CACHE_DIR=${NUMBA_CACHE_DIR:-$cache/numba} CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$cache/cuda}

  case ${MODE:-queue} in
    queue) door=handler.py ;;
    http) door=server.py ;;
    *) refuse "MODE is '$MODE'; allowed: queue, http" ;;
  esac
  # RunPod's SDK reads its own while it is imported, and fails with a traceback.
  log_level LOG_LEVEL DEBUG INFO WARN ERROR CRITICAL
  log_level RUNPOD_LOG_LEVEL NOTSET TRACE DEBUG INFO WARN ERROR
  [[ $ref =~ ^[A-Za-z0-9][A-Za-z0-9._/-]*$ ]] || refuse "VIBEVOICE_REF is '$ref'; allowed: a commit, branch or tag"
  slurp "$requirements_file" || refuse "REQUIREMENTS_FILE: $requirements_file cannot be read or is empty"
  requirements=$REPLY

  # The wheel of flash-attn for the production set. It is on no index; two public records of its
  # hash agree. An empty FLASH_ATTN_WHEEL leaves it out.
  local wheel=
  [[ ${REQUIREMENTS_FILE:-} ]] || wheel=https://github.com/Dao-AILab/flash-attention/releases/download/v2.8.3/flash_attn-2.8.3+cu12torch2.8cxx11abiTRUE-cp312-cp312-linux_x86_64.whl#sha256=f25da18657a87fc83dc1bfb8b7751b82246e9db355510226b674fd437c34b5fb
  flash_wheel=${FLASH_ATTN_WHEEL-$wheel}

  python=${PYTHON:-python3.12}
  [[ $python =~ python3\.(1[1-9]|[2-9][0-9])$ ]] ||
    refuse "PYTHON is '$python'; allowed: a name with its version, from 3.11 on, such as python3.12"
  hash "$python" 2>/dev/null
  python=${BASH_CMDS[$python]-$python}

  # What each part is made from. The pins name the CUDA build, so it needs no line of its own.
  without_login "$flash_wheel"
  venv_head="python $python"$'\n'"flash-attn $REPLY"$'\n'
  venv_wanted=$venv_head$requirements
  without_login "$repository"
  address=$REPLY
  code_wanted="repository $address"$'\n'"ref $ref"
  model_wanted=$MODEL_PATH@$MODEL_REVISION
  local skip=${SKIP_MODEL_DOWNLOAD:-}
  case ${skip,,},${ENGINE:-} in
    1,* | true,* | yes,* | on,* | *,espeak | *,kokoro | *,piper | *,upstream | *,realtime) model_wanted=none ;;
  esac
  # The platform had it ready before this worker began, which checks it before it is loaded.
  [[ $model_wanted == none ]] || ! cached_by_platform /runpod-volume/huggingface-cache/hub ||
    model_wanted=none cached=$REPLY
}

trim() { # NAME ...: as config.py reads them, without white space and quotes around the whole
  local name value inner
  for name; do
    value=${!name-}
    [[ ! $value =~ \{\{[[:space:]]*RUNPOD_SECRET_([A-Za-z0-9_.-]*) ]] ||
      refuse "$name: RunPod has no secret '${BASH_REMATCH[1]}' to put here"
    strip "$value"
    if [[ $REPLY =~ ^\"(.*)\"$ || $REPLY =~ ^\'(.*)\'$ ]]; then
      inner=${BASH_REMATCH[1]}
      [[ $inner == *"${REPLY:0:1}"* ]] || strip "$inner"
    fi
    [[ $REPLY == "$value" ]] || printf -v "$name" %s "$REPLY"
  done
}

strip() { # TEXT: without white space at its ends, as REPLY
  local space=$' \t\r\n\v\f'
  REPLY=${1#"${1%%[!"$space"]*}"}
  REPLY=${REPLY%"${REPLY##*[!"$space"]}"}
}

expand_home() { # NAME: `~` and `~USER` at its beginning
  local home=\~
  [[ ${!1-} == \~* ]] || return 0
  # Such a word is expanded, and nothing else is done.
  [[ ! ${!1} =~ ^~([A-Za-z_][A-Za-z0-9_.-]*)?(/|$) ]] || eval "home=~${BASH_REMATCH[1]}"
  [[ $home != \~* ]] || refuse "$1: names the home of a user that this machine has not"
  local rest=${!1#"~${BASH_REMATCH[1]}"}
  printf -v "$1" %s "$home$rest"
}

log_level() { # NAME LEVEL ...: one of the levels, in any case; WARN and WARNING are one
  local level=${!1-}
  [[ $level ]] || return 0
  level=${level^^} level=${level/%WARNING/WARN}
  [[ " ${*:2} " == *" $level "* ]] || refuse "$1: allowed: ${*:2}"
  printf -v "$1" %s "$level"
}

outlives_the_worker() { # FOLDER MOUNTS: whether a volume is mounted there, of whatever kind
  # For a cached model RunPod puts an overlay there, volume or not.
  local place kind
  slurp "$2" || return 0
  while read -r _ place kind _; do
    [[ $place != "$1"?(/vibevoice) || $kind == overlay || $kind == tmpfs ]] || return 0
  done <<<"$REPLY"
  return 1
}

cached_by_platform() { # CACHE: the model's snapshot there as REPLY
  local root=$1/models--${MODEL_PATH//\//--}
  slurp "$root/refs/$MODEL_REVISION" || REPLY=$MODEL_REVISION
  REPLY=$root/snapshots/${REPLY%$'\n'}
  [[ -s $REPLY/config.json ]]
}

without_login() { # ADDRESS: as REPLY, for logs and the volume
  REPLY=$1
  [[ ! $1 =~ ^([^/]*//)[^/]*@(.*)$ ]] || REPLY=${BASH_REMATCH[1]}${BASH_REMATCH[2]}
}

slurp() { # FILE: its text as REPLY; fails where it is empty or not there
  local text=()
  REPLY=
  [[ -r $1 && -f $1 ]] && mapfile -d '' text <"$1" && REPLY=${text[0]-}
  [[ $REPLY ]]
}

everything_in_place() { # for a start like this one; others with other settings may share the volume
  local flag text
  base=$volume
  [[ -e $base/.first_run_complete ]] || return
  for flag in "$base"/.first_run_complete-*; do
    # Who removes a part takes the flags that name it away and then looks for marks: so our mark is
    # seen there, or the flag's absence here.
    failed=$base/.failed-${flag##*-}
    slurp "$flag" && text=$REPLY && names_what_is_wanted "$text" && mark_in_use && [[ -e $flag ]] &&
      model_is_untouched "$flag" "$text" && [[ ! -s $failed && -d $base/demo/voices ]] && has_presets && return
  done
  return 1
}

names_what_is_wanted() { # JSON: sets venv, code and model
  recorded wanted "$1" && [[ $REPLY == "$model_wanted" ]] && recorded model "$1" && model=$REPLY &&
    recorded code "$1" && find_code "$REPLY" && recorded venv "$1" && find_venv "$REPLY" &&
    [[ ! -e $venv/.flash-attn-failed ]]
}

has_presets() { # the voices of VibeVoice-Realtime, where it may be asked for
  [[ ,${ENGINE:-},${MODELS:-}, != *realtime* || -e $base/presets/.filled ]]
}

recorded() { # KEY JSON: the value as REPLY
  [[ $2 =~ \"$1\":\ \"([^\"]*)\" ]] && REPLY=${BASH_REMATCH[1]}
}

mark_in_use() { # names what this worker uses; also the proof that the volume takes a file
  mark=$base/.in-use/$worker
  { printf '%s\n' "${venv##*/}" "${code##*/}" "${model##*/}" >"$mark"; } 2>/dev/null
}

find_venv() { find_part "$1" "$venv_wanted" bin/python && venv=$REPLY; }

find_code() {
  [[ ${VIBEVOICE_CODE:-} ]] && code=$VIBEVOICE_CODE && return
  find_part "$1" "$code_wanted" vibevoice/modular/modeling_vibevoice_inference.py && code=$REPLY
}

find_part() { # NAME DEFINITION FILE: the whole part's folder as REPLY, in the image or on the volume
  local place
  for place in "$disk" "$volume"; do
    place+=/$1
    [[ -s $place/.manifest.json && -s $place/$3 ]] && slurp "$place/.definition" &&
      [[ $REPLY == "$2" ]] && REPLY=$place && return
  done
  return 1
}

model_is_untouched() { # FLAG JSON: no file of the model is missing, empty or newer than the flag
  local line
  [[ $model_wanted != none ]] || return 0
  [[ $model == /* ]] || model=$base/$model
  while IFS= read -r line; do
    [[ $line =~ ^\ {4}\"(.*)\",?$ ]] || continue
    line=$model/${BASH_REMATCH[1]}
    [[ -s $line && ! $line -nt $1 ]] || return
  done <<<"$2"
}

needs_gpu() { [[ ${ENGINE:-auto} == @(auto|vibevoice|realtime) && $requirements == *nvidia-cublas-cu12* ]]; }

refuse_without_callers() { # who may call is said before minutes are paid; server.py says it too
  [[ $door == server.py && ! ${HOST:-}${API_KEYS:-} ]] || return 0
  [[ ${RUNPOD_POD_ID:-}${RUNPOD_ENDPOINT_ID:-}${VIBEVOICE_IMAGE:-} ]] || return 0
  case ${ALLOW_ANONYMOUS:-} in
    [Tt] | [Tt][Rr][Uu][Ee] | 1 | [Yy] | [Yy][Ee][Ss] | [Oo][Nn]) ;;
    *) refuse "MODE=http: nobody could call this server: give API_KEYS, or set ALLOW_ANONYMOUS=true" ;;
  esac
}

refuse_without_driver() { # DEVICE VERSION_FILE WSL: for a CUDA build there has to be a driver
  needs_gpu || return 0
  [[ ! -e $3 ]] || return 0 # Windows has the driver, and tells no version here
  [[ -e $1 ]] || refuse "there is no NVIDIA driver on this machine, and $requirements_file is a CUDA build:" \
    "run the worker on a GPU. To fill a volume without one, use --prefetch"
  # "Kernel Module  550.54.15", or of the open ones "Open Kernel Module for x86_64  550.54.15".
  slurp "$2" && [[ $REPLY =~ Module(\ for\ [^ ]+)?\ +([0-9]+)\.([0-9]+) ]] || return 0
  local major=${BASH_REMATCH[2]} have=${BASH_REMATCH[2]}.${BASH_REMATCH[3]}
  # CUDA 12 runs from 525 on; 12.8 came with 570.
  ((major >= 525)) ||
    refuse "the NVIDIA driver $have is too old for CUDA 12.8: set the endpoint's CUDA versions to 12.8 and newer"
  ((major >= 570)) || say "the NVIDIA driver $have is older than CUDA 12.8; 570 or newer is better"
}

provision() { # COMMAND ARGUMENT ...: becomes what builds what is missing, and then the worker
  [[ -x $python ]] || refuse "there is no $python here: install Python 3.12 or set PYTHON"
  export volume disk unattached cached warm prefetch repair worker door python requirements_file flash_wheel \
    repository address ref venv_head code_wanted model_wanted hub_home hub_cache
  exec "$python" -m provision "$@"
}

become_the_worker() {
  export VIBEVOICE_VOLUME=$base VIBEVOICE_CODE=$code VIBEVOICE_IN_USE=$mark VIBEVOICE_FAILED=$failed
  export HF_HOME=${hub_home:-$base/hf_home}
  export HF_HUB_CACHE=${hub_cache:-$base/hf_cache}
  # All that is asked for is on a disk now, so nothing may wait for the network.
  [[ $model_wanted == none ]] || export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
  exec "$venv/bin/python" -u provision/begin.py "$door" "$@"
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"

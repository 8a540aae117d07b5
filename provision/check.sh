# shellcheck shell=bash
# --check: what is on the volume, as a table.

mark_in_use() { [[ -w $base/.in-use ]]; } # who only looks uses nothing

check() {
  local status=0 text='' state where
  name_parts
  printf '%-20s %-10s %-10s %s\n' part state size detail
  row_of_part 'Python environment' find_venv "$venv_name" venv python torch flash_attention
  row_of_part "VibeVoice's code" find_code "$code_name" code commit
  everything_in_place || status=1
  if [[ ${cached:-} ]]; then
    row model cached '' "by RunPod, $cached"
  elif [[ $model_wanted == none ]]; then
    row model skipped '' 'not asked for'
  elif slurp "$volume/$flag_name" && text=$REPLY && recorded model "$text" && model=$REPLY &&
    model_is_untouched "$volume/$flag_name" "$text"; then
    row model whole "$(du -shL "$model" | cut -f 1)" "$MODEL_PATH, ${model#"$volume"/}"
  else
    row model missing '' "$model_wanted"
  fi
  row voices '' '' "$(find "$volume/demo/voices" -type f 2>/dev/null | wc -l) files"
  base=$volume
  where=$(df -h --output=avail "$volume" 2>/dev/null)
  state=read-only
  [[ ! -w $volume ]] || state=writable
  [[ -d $volume && ! $unattached ]] || state=absent
  row volume "$state" '' "$volume${where:+, ${where##*[[:space:]]} free by what the system says}"
  row_of_lock
  row 'in use by' '' '' "$(find "$volume/.in-use" -type f -mmin -2 2>/dev/null | wc -l) workers in the last two minutes"
  local next=(warm '' '')
  ((status == 0)) || next=(cold '' 'something is missing: --prefetch fills it in')
  [[ $state != read-only ]] || next=(cold '' 'the volume takes no files: the container disk is used')
  row 'next start' "${next[@]}"
  return "$status"
}

row() { printf '%-20s %-10s %-10s %s\n' "$@"; }

row_of_part() { # TITLE FINDER NAME VARIABLE KEY ...: its manifest's entries are the detail
  local title=$1 name=$3 folder key text detail='' size=''
  base=$volume
  "$2" "$name" || { row "$title" missing '' "$name" && return; }
  folder=${!4}
  shift 4
  slurp "$folder/.manifest.json"
  text=$REPLY
  ! recorded bytes "$text" || size=$((REPLY / 1000000))M
  for key; do
    recorded "$key" "$text" && detail+=", $key $REPLY"
  done
  row "$title" whole "$size" "$folder$detail"
}

row_of_lock() {
  . provision/lock.sh
  latest_turn
  local latest=$volume/.lock/$REPLY
  if ((REPLY == 0)) || [[ -e $latest/released ]]; then
    row lock free '' ''
  else
    slurp "$latest/doing"
    row lock held '' "by $(<"$latest/owner"), ${REPLY%$'\n'}"
  fi
}

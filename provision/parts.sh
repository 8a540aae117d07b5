# shellcheck shell=bash
# What the parts and the flag are called and what they are made with.

name_parts() { # each part is named by a hash of its definition
  name_part venv "$venv_wanted" && venv_name=$REPLY
  name_part vibevoice "$code_wanted" && code_name=$REPLY
  name_part .first_run_complete "$venv_name $code_name $model_wanted" && flag_name=$REPLY
}

name_part() { # KIND DEFINITION
  local digest
  digest=$(printf %s "$2" | sha256sum) && REPLY=$1-${digest:0:12}
}

keep_definition() { printf %s "$2" >"$1/.definition"; } # FOLDER DEFINITION

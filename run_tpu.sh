#!/usr/bin/env bash
# Runs main.py on a Cloud TPU slice: creates one queued resource and runs the same command on each of its hosts.
#
#   ./run_tpu.sh create                      request the slice, wait until it is there
#   ./run_tpu.sh setup                       send this commit to every host, install it, mount shared storage
#   ./run_tpu.sh launch -- --config=configs/pretrain.py --workdir=/mnt/shared/runs/pretrain --config.data.dir=DIR
#   ./run_tpu.sh launch --supervise -- ...   do all three, and repeat them after each preemption, until the program ends
#   ./run_tpu.sh status                      show the state of the slice, and of the program on each host
#   ./run_tpu.sh logs [--worker=0] [--tail=50] [--follow]
#   ./run_tpu.sh stop                        send SIGTERM: the program saves and exits with 75
#   ./run_tpu.sh delete                      delete the slice, which ends its bill
#
# Settings are flags or environment variables (--zone=Z is ZONE=Z, --spot is SPOT=1):
#   --name --zone --project         of the queued resource; its one node has the same name
#   --accelerator-type              v5litepod-16, v4-32, v5p-64, v6e-64 ...
#   --runtime-version               by default the version that Google lists for the type
#   --spot                          a cheaper slice, which Google may preempt at any time
#   --mount=BUCKET | SERVER:/SHARE  mounted at /mnt/shared on every host, with gcsfuse or NFS; for setup and launch
#                                   --supervise
#   --commit=HEAD --extras=tpu,gcs  the commit that setup sends, and the extras of setup.py that it installs
#   --create-args= --ssh-args=      more arguments for gcloud, as in --create-args='--network=N --internal-ips'
#   --delete-when-done              with --supervise: delete the slice once the program has ended with 0
#   --dry-run                       print every gcloud call and run none
#   --poll=60 --grace=180 --backoff=30 --call-limit=300 --ssh-limit=300 --setup-limit=1800 --stop-limit=240  seconds
#   --failures=20                   failed attempts in a row after which --supervise gives up
#
# Exit codes: 0 done, 1 gcloud or a host failed, 2 a mistake in the command, 3 the program failed on the hosts, 4 the
# slice is not in a state for this command, 75 `stop` stopped the program, 124 no answer in time, 130 interrupted.

set -u -o pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: this is bash $BASH_VERSION, expected 4.4 or later; run it on Linux" >&2
  exit 2
fi

CHILD=''         # the process that `limited` waits for
STATE='' WHY=''  # of the queued resource: set by look_up

say() { [[ -n $DRY_RUN ]] || printf '%(%F %T)T  %s\n' -1 "$*" >&2; }
die() { printf 'error: %s\n' "$2" >&2; exit "$1"; }
ended() { [[ -z $CHILD ]] || kill "$CHILD" 2>/dev/null; exit 130; }
interrupted() { if [[ -e accepted && $1 == @(create|delete|supervise) ]]; then say "$MAY_COST" 2>&3; fi; ended; }

# --- gcloud ----------------------------------------------------------------------------------------------------------

# limited SECONDS COMMAND...: returns the command's exit code, 124 after SECONDS (0: no limit). The command runs in the
# background, so that Ctrl-C ends it.
limited() {
  local code
  timeout --kill-after=5 "$1" "${@:2}" </dev/null & CHILD=$!
  wait "$CHILD"; code=$?; CHILD=''
  return $((code == 137 ? 124 : code))
}

nap() { [[ -n $DRY_RUN ]] || limited 0 sleep "$1"; }

# quoted WORD...: prints the words, quoted for a shell.
quoted() {
  local word line=''
  for word; do case $word in '' | *[!A-Za-z0-9_./:=,@+-]*) line+=" ${word@Q}" ;; *) line+=" $word" ;; esac; done
  printf '%s\n' "${line# }"
}

# gc SECONDS ARGUMENT...: makes one gcloud call; its output goes to the files `out` (STREAM: the terminal) and `err`. A
# dry run prints the call instead.
gc() {
  LIMIT=$1 CALL="gcloud ${*:2:4}"
  set -- "${@:2}" --quiet
  if [[ -n $DRY_RUN ]]; then echo "gcloud $(quoted "$@")"
  elif [[ -n ${STREAM:-} ]]; then limited "$LIMIT" gcloud "$@" 2>err
  else limited "$LIMIT" gcloud "$@" >out 2>err
  fi
}

# explain CODE: if the last call failed, exits with one line that says why.
explain() {
  local reason
  (($1)) || return 0
  reason=$(grep -m1 '^error: ' err || grep -m1 '^ERROR' err || grep . err | tail -n1)
  case $1:$reason in
    124:*) die 124 "$CALL did not answer in $LIMIT s; try again, or raise --call-limit, --ssh-limit or --setup-limit" ;;
    127:*) die 4 "$NAME is not set up; run: ./run_tpu.sh setup" ;;
    *:error:*) die "$1" "${reason:7:300}" ;;  # a message of tpu/host.sh
    2:ERROR*) die 2 "gcloud does not accept these arguments (--create-args, --ssh-args): ${reason:0:300}" ;;
    *) die 1 "$CALL failed: ${reason:0:300}" ;;
  esac
}

call() { gc "$@"; explain $?; }

# on_hosts WORKERS SECONDS WORD...: runs tpu/host.sh on the workers.
on_hosts() {
  gc "$2" compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" "${SSH_WORDS[@]}" "--worker=$1" \
    "--command=bash run_tpu/code/tpu/host.sh ${*:3}"
}

# count: prints how many hosts gave each answer, as in "16 host(s) launched".
count() { say "$(cut -d' ' -f2- out | sort | uniq -c | awk '{ $1 = $1 " host(s)"; print }' | paste -sd';')"; }

# look_up ASSUMED: sets STATE (MISSING: there is no such queued resource) and WHY; a dry run uses ASSUMED. Returns
# gcloud's code. The file `accepted` exists if Google has accepted the request; tpu/supervise.sh reads it in later
# attempts.
look_up() {
  gc "$CALL_LIMIT" compute tpus queued-resources describe "$NAME" "${PLACE[@]}" \
    '--format=value(state.state,state.failedData.error.message)'
  local code=$?
  if [[ -n $DRY_RUN ]]; then STATE=$1
  elif ((code == 0)); then read -r STATE WHY <out
  elif grep -q NOT_FOUND err; then STATE=MISSING code=0
  fi
  case $code:$STATE in
    0:FAILED) rm -f accepted ;;
    0:MISSING | 0:DELETING | 0:SUSPEND*) ;;
    0:*) touch accepted ;;
  esac
  return $code
}

# refuse: exits with a line that says what to do if the queued resource is not ACTIVE.
refuse() {
  case $STATE in
    MISSING) die 4 "there is no $NAME in $ZONE; run: ./run_tpu.sh create" ;;
    FAILED | SUSPEND* | DELETING) die 4 "$NAME is $STATE${WHY:+: $WHY}; run: ./run_tpu.sh delete, then create" ;;
    *) die 4 "$NAME is ${STATE:-in no state}, not ACTIVE; run: ./run_tpu.sh create, which waits" ;;
  esac
}

need_active() { look_up ACTIVE || explain $?; [[ $STATE == ACTIVE ]] || refuse; }

# wait_for STATE: polls until the queued resource is in it.
wait_for() {
  local before='' patience=10  # number of looks until a deletion must be visible
  while look_up "$1" || explain $?; [[ $STATE != "$1" ]]; do
    [[ $1:$STATE != ACTIVE:@(FAILED|SUSPEND*|DELETING|MISSING) ]] || refuse
    if [[ $STATE == DELETING ]]; then patience=0
    else [[ $1 == ACTIVE ]] || ((patience-- > 0)) || die 1 "the deletion had no effect: $NAME is $STATE; $MAY_COST"
    fi
    [[ $STATE == "$before" ]] || say "$NAME is $STATE"
    before=$STATE
    nap "$POLL"
  done
  say "$NAME is $STATE"
}

# --- commands --------------------------------------------------------------------------------------------------------

create() {
  look_up MISSING || explain $?
  case $STATE in
    FAILED | SUSPEND* | DELETING) refuse ;;
    MISSING)
      [[ -n $ACCELERATOR_TYPE ]] || die 2 "--accelerator-type is missing; give for example v5litepod-16"
      [[ -n $RUNTIME_VERSION ]] || die 2 "no known software for '$ACCELERATOR_TYPE'; give --runtime-version"
      call "$CALL_LIMIT" compute tpus queued-resources create "$NAME" "--node-id=$NAME" "${PLACE[@]}" \
        "--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION" ${SPOT:+--spot} "${CREATE_WORDS[@]}"
      touch accepted ;;  # also if the next look_up fails
    *) say "$NAME exists already" ;;
  esac
  rm -f replacing  # from now on a deletion is not by tpu/supervise.sh
  wait_for ACTIVE
}

setup() {
  need_active
  [[ -z $(git -C "$ROOT" status --porcelain --untracked-files=no) ]] || say "note: uncommitted changes are not sent"
  say "sending commit ${COMMIT:0:12} to the hosts of $NAME and installing it (minutes the first time)"
  if [[ -n $DRY_RUN ]]; then echo "git archive --format=tar.gz --prefix=new/ --output=code.tar.gz $COMMIT"
  else git -C "$ROOT" archive --format=tar.gz --prefix=new/ "$COMMIT" >code.tar.gz || die 2 "git archive failed"
  fi
  call "$SETUP_LIMIT" compute tpus tpu-vm scp code.tar.gz "$NAME:run_tpu.tar.gz" "${PLACE[@]}" "${SSH_WORDS[@]}" \
    --worker=all
  local unpack="mkdir -p run_tpu && rm -rf run_tpu/new && tar -xzf run_tpu.tar.gz -C run_tpu"
  call "$SETUP_LIMIT" compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" "${SSH_WORDS[@]}" --worker=all \
    "--command=$unpack && bash run_tpu/new/tpu/host.sh setup $(quoted "$EXTRAS" "$MOUNT")"
  say "the hosts of $NAME are set up"
}

launch() {
  need_active
  on_hosts all "$SSH_LIMIT" launch "$(quoted "${PROGRAM[@]}")"
  explain $?
  [[ -n $DRY_RUN ]] || count
}

status() {
  look_up ACTIVE || explain $?
  [[ -n $DRY_RUN ]] || echo "$NAME is $STATE${WHY:+: $WHY}"
  [[ $STATE == ACTIVE ]] || return 0
  on_hosts all "$SSH_LIMIT" state
  explain $?
  [[ -n $DRY_RUN ]] || sort out
}

logs() {
  need_active
  local seconds=$SSH_LIMIT
  [[ -z $FOLLOW ]] || seconds=0
  STREAM=1 on_hosts "$WORKER" "$seconds" log "$TAIL" ${FOLLOW:+follow}
  explain $?
}

stop() {  # [restart]: any argument if the program will be launched again
  look_up ACTIVE || explain $?
  [[ $STATE == ACTIVE ]] || { say "$NAME is $STATE; nothing runs there (end a supervision by Ctrl-C)"; return; }
  on_hosts all $((STOP_LIMIT + SSH_LIMIT)) stop "$STOP_LIMIT" "$@"
  explain $?
  [[ -n $DRY_RUN ]] || count
}

delete() {
  look_up ACTIVE || explain $?
  [[ $STATE != MISSING ]] || { say "there is no $NAME in $ZONE"; return; }
  [[ $STATE == DELETING ]] ||
    call "$CALL_LIMIT" compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --async
  wait_for MISSING
}

# --- start -----------------------------------------------------------------------------------------------------------

settings() {
  local key
  : "${NAME:=}" "${ZONE:=}" "${PROJECT:=}" "${ACCELERATOR_TYPE:=}" "${RUNTIME_VERSION:=}" "${SPOT:=}" "${MOUNT:=}" \
    "${COMMIT:=HEAD}" "${EXTRAS:=tpu,gcs}" "${CREATE_ARGS:=}" "${SSH_ARGS:=}" "${DELETE_WHEN_DONE:=}" "${DRY_RUN:=}" \
    "${POLL:=60}" "${GRACE:=180}" "${BACKOFF:=30}" "${CALL_LIMIT:=300}" "${SSH_LIMIT:=300}" "${SETUP_LIMIT:=1800}" \
    "${STOP_LIMIT:=240}" "${FAILURES:=20}" "${WORKER:=0}" "${TAIL:=50}"
  FOLLOW='' SUPERVISE='' PROGRAM=()
  while (($#)); do
    key=${1%%=*} key=${key#--} key=${key//-/_} key=${key^^}
    case $1 in
      --) PROGRAM=("${@:2}"); break ;;
      --spot | --dry-run | --supervise | --follow | --delete-when-done) printf -v "$key" 1 ;;
      --name=* | --zone=* | --project=* | --accelerator-type=* | --runtime-version=* | --mount=* | --commit=* | \
        --extras=* | --create-args=* | --ssh-args=* | --worker=* | --tail=* | --poll=* | --grace=* | --backoff=* | \
        --failures=* | --call-limit=* | --ssh-limit=* | --setup-limit=* | --stop-limit=*)
        printf -v "$key" %s "${1#*=}" ;;
      *) die 2 "unknown argument '$1'; run: ./run_tpu.sh help (arguments of main.py come after --)" ;;
    esac
    shift
  done
  for key in SPOT DRY_RUN DELETE_WHEN_DONE; do [[ ${!key} != @(0|false|no) ]] || printf -v "$key" ''; done
  for key in POLL GRACE BACKOFF FAILURES CALL_LIMIT SSH_LIMIT SETUP_LIMIT STOP_LIMIT TAIL; do
    [[ ${!key} =~ ^(0|[1-9][0-9]*)$ ]] || die 2 "$key is '${!key}', expected a whole number"
  done
  [[ $NAME =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ||
    die 2 "--name is '$NAME'; expected lower-case letters, digits and hyphens, as in --name=pretrain-1"
  [[ -n $ZONE ]] || die 2 "--zone is missing; give for example --zone=us-west4-a"
  case $ACCELERATOR_TYPE in
    v5litepod-*) : "${RUNTIME_VERSION:=v2-alpha-tpuv5-lite}" ;;
    v5p-*) : "${RUNTIME_VERSION:=v2-alpha-tpuv5}" ;;
    v6e-*) : "${RUNTIME_VERSION:=v2-alpha-tpuv6e}" ;;
    v[234]-*) : "${RUNTIME_VERSION:=tpu-ubuntu2204-base}" ;;
  esac
  MOUNT=${MOUNT#gs://} MOUNT=${MOUNT%/}
  COSTS="$NAME still costs money; run: ./run_tpu.sh delete" MAY_COST=${COSTS/still costs/may still cost}
  PLACE=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
  read -ra CREATE_WORDS <<<"$CREATE_ARGS"
  read -ra SSH_WORDS <<<"$SSH_ARGS"
}

main() {
  local action=${1:-help}
  case $action in
    help | --help | -h) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; return ;;
    create | setup | launch | status | logs | stop | delete) settings "${@:2}" ;;
    *) die 2 "unknown command '$action'; run: ./run_tpu.sh help" ;;
  esac
  if [[ $action == launch ]]; then
    [[ " ${PROGRAM[*]}" == *" --config="* ]] || die 2 "no --config= for main.py; give its arguments after --"
    [[ -z $SUPERVISE ]] || action=supervise
  fi
  ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  # shellcheck source=tpu/supervise.sh
  [[ $action != supervise ]] || source "$ROOT/tpu/supervise.sh"
  if [[ $action == @(setup|supervise) ]]; then  # once, so that a slice that is created again runs the same code
    COMMIT=$(git -C "$ROOT" rev-parse --verify --quiet "$COMMIT^{commit}") || die 2 "--commit: $ROOT has no such commit"
  fi
  [[ -n $DRY_RUN ]] || command -v gcloud >/dev/null || die 2 "gcloud is not on the PATH; install the Google Cloud CLI"
  command -v timeout >/dev/null || die 2 "timeout is not on the PATH; install GNU coreutils"
  SCRATCH=$(mktemp -d) || exit
  trap 'rm -rf "$SCRATCH"' EXIT
  exec 3>&2  # for `interrupted`: when a signal arrives, the output of a call may go to a file
  # shellcheck disable=SC2064
  trap "interrupted $action" INT TERM HUP
  cd "$SCRATCH" || exit
  "$action"
}

main "$@"

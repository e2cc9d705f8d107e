#!/usr/bin/env bash
# The part of run_tpu.sh that runs on a host of the slice. `run_tpu.sh setup` sends it there with the code.
#
# ~/run_tpu contains code/, venv/, log and ready (the id of the boot in which setup ran). For the last launch it
# contains arguments, process (the ids of the process and of the boot), exit_code (once the process has ended) and
# stopped (if `stop` ended it).

set -u -o pipefail

BOOT=/proc/sys/kernel/random/boot_id

die() { printf 'error: %s: %s\n' "$(hostname)" "$2" >&2; exit "$1"; }

program() {  # idle | running | lost (the host has booted since) | exited CODE TIME | stopped CODE TIME
  local pid='' boot='' code='' kind=exited
  [[ ! -f process ]] || read -r pid boot <process
  [[ ! -f exit_code ]] || code=$(<exit_code)
  [[ ! -f stopped ]] || kind=stopped
  # A program that saved while its host was shutting down must be launched again: it counts as lost.
  if [[ -n $code && ($kind:$code != exited:75 || $boot == "$(<$BOOT)") ]]; then
    echo "$kind $code $(date -u -r exit_code +%FT%T.%3NZ)"
  elif [[ -z $pid ]]; then echo idle
  elif [[ -z $code && $boot == "$(<$BOOT)" ]] && kill -0 "$pid" 2>/dev/null; then echo running
  else echo lost
  fi
}

# After its boot a host updates its packages, and the update locks apt for minutes.
apt() { sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@" >/dev/null; }

mount_shared() {  # BUCKET or SERVER:/SHARE
  ! findmnt --mountpoint /mnt/shared >/dev/null || sudo umount /mnt/shared || return  # also if its gcsfuse has ended
  sudo mkdir -p /mnt/shared || return
  if [[ $1 == *:/* ]]; then
    command -v mount.nfs >/dev/null || { apt update && apt install nfs-common; } || return
    sudo mount -t nfs "$1" /mnt/shared
    return
  fi
  if ! command -v gcsfuse >/dev/null; then
    local site=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
    curl -fsS $site/doc/apt-key.gpg | sudo tee $key >/dev/null || return
    echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    { apt update && apt install gcsfuse; } || return
  fi
  sudo chown "$(id -u):$(id -g)" /mnt/shared || return
  # No cached metadata, because a host must see the other hosts' files at once.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$1" /mnt/shared >/dev/null
}

setup() {  # EXTRAS MOUNT, in ~/run_tpu/new
  [[ $(program) != running ]] || die 4 "a program is running; run: ./run_tpu.sh stop"
  { rm -rf ready code && mv new code; } || die 1 "the code cannot be moved to its place"
  [[ -z $2 ]] || mount_shared "$2" 9>&- || die 1 "$2 cannot be mounted at /mnt/shared"
  sudo sh -c 'echo always >/sys/kernel/mm/transparent_hugepage/enabled'  # libtpu starts and ends faster
  PATH=$PWD/uv/bin:$HOME/.local/bin:$PATH  # uv: the images have Python 3.10, the project needs 3.11
  # pip takes only the file whose hash stands in uv.lock.
  command -v uv >/dev/null || python3 -m pip install --quiet --require-hashes --target uv -r code/tpu/uv.lock ||
    die 1 "uv cannot be installed with pip"
  uv venv --quiet --allow-existing --python=3.11 venv || die 1 "no Python 3.11"
  uv pip install --quiet --python=venv/bin/python -e "./code[$1]" || die 1 "the project cannot be installed"
  cp $BOOT ready
}

launch() {  # ARGUMENTS OF main.py
  if [[ $(program) == running ]]; then
    [[ $(<arguments) == "${*@Q}" ]] || die 2 "another command runs: $(<arguments); run: ./run_tpu.sh stop"
    echo "$(hostname) already running"
    return
  fi
  [[ -f ready && $(<ready) == "$(<$BOOT)" ]] || die 4 "it is not set up since its last boot; run: ./run_tpu.sh setup"
  rm -f exit_code stopped
  echo "${*@Q}" >arguments
  setsid bash code/tpu/host.sh run "$@" </dev/null >>log 2>&1 9>&- &
  echo "$! $(<$BOOT)" >process
  echo "$(hostname) launched"
}

run() {  # ARGUMENTS OF main.py: runs it, writes its exit code to a file, forwards SIGTERM to it
  local child code again=1
  echo "=== $(date -u +%FT%TZ) main.py ${*@Q}"
  cd code || exit
  ../venv/bin/python -u main.py "$@" & child=$!
  trap 'again=1; kill -TERM "$child" 2>/dev/null' TERM
  while [[ -n $again ]]; do again=''; wait "$child"; code=$?; done
  echo "=== $(date -u +%FT%TZ) exit code $code"
  echo "$code" >../exit_code.new && mv ../exit_code.new ../exit_code
}

stop() {  # SECONDS until SIGKILL [restart]: any second argument if the program will be launched again
  local pid state end=$((SECONDS + $1))
  state=$(program)
  [[ -n ${2:-} || $state != @(running|exited 75 *) ]] || touch stopped
  [[ $state == running ]] || { echo "$(hostname) ran nothing"; return; }
  read -r pid _ <process
  kill -TERM "$pid"
  until [[ -f exit_code ]] || ((SECONDS > end)); do sleep 0.1; done
  [[ -f exit_code ]] || { kill -KILL -- "-$pid"; echo 137 >exit_code; }
  echo "$(hostname) stopped with exit code $(<exit_code)"
}

main() {
  cd ~/run_tpu || exit
  case $1 in
    state) echo "$(hostname) $(program)" ;;
    log) touch log; tail -n "$2" ${3:+-F} log ;;
    log-of) [[ $(hostname) != "$2" ]] || tail -n "$3" log ;;
    run) "$@" ;;
    setup | launch | stop)
      exec 9>lock
      flock --timeout 30 9 || die 4 "another call of run_tpu.sh is running there; wait until it ends, then try again"
      "$@" ;;
  esac
}

main "$@"

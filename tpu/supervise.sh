# Sourced by run_tpu.sh for `launch --supervise`: starts the slice and the program, and starts them again after each
# failure of the slice, until the program ends.
# shellcheck shell=bash disable=SC2153

SITUATION=''  # of slice and program together, set by survey
LOOK=0        # the exit code of survey's last gcloud call

# survey ASSUMED: sets SITUATION to gone | coming | unknown (see LOOK) | terminal (the node is preempted, but the queued
# resource is still ACTIVE), or to the common result of all hosts:
# running | failed | stopped (by `stop`) | lost (a host restarted without its program) | saved (75) | done | idle.
survey() {
  SITUATION=unknown
  look_up "$1"; LOOK=$?
  ((LOOK == 0)) || return
  case $STATE in
    MISSING | DELETING | FAILED | SUSPEND*) SITUATION=gone; return ;;
    ACTIVE) on_hosts all "$SSH_LIMIT" state; LOOK=$? ;;
    *) SITUATION=coming; return ;;
  esac
  if [[ -n $DRY_RUN ]]; then SITUATION='done'
  elif ((LOOK == 127)); then SITUATION=idle
  elif ((LOOK == 0)); then
    SITUATION=$(awk '
      { kind = $2 != "exited" ? $2 : $3 == 0 ? "done" : $3 == 75 ? "saved" : "failed"; seen[kind] = 1 }
      END { if (seen["running"] && !seen["failed"]) { print "running"; exit }
            n = split("stopped lost failed saved idle done", order)
            for (i = 1; i <= n; i++) if (seen[order[i]]) { print order[i]; exit }
            print "idle" }' out)
  elif grep -q 'terminal state' err; then SITUATION=terminal
  fi
}

unreachable() { explain "$LOOK"; }

# attempt COMMAND...: runs the commands in a subshell, so that an error ends only the attempt. It ends the supervision
# if the settings are wrong: after a mistake (code 2), or if no slice was granted or found so far. Returns the code of
# the attempt.
attempt() {
  local command code
  ((attempts++ < FAILURES)) || die 1 "gave up on $NAME after $FAILURES attempts in a row; $MAY_COST"
  [[ " $* " != *" launch "* ]] || partial=1
  (CHILD=''; trap ended INT TERM HUP; for command; do "$command"; done) & CHILD=$!  # `wait` handles signals at once
  wait "$CHILD"; code=$?; CHILD=''
  ((code)) || started=1 partial=''
  if ((code == 130 || code == 2)) || [[ -z $started && ! -e accepted ]]; then exit "$code"; fi
  ((code == 0)) || say "trying again in $pause s"
  return "$code"
}

# rest: waits before the next survey, so that each action uses a new survey. The wait gets longer while no attempt leads
# to a running program.
rest() {
  ((attempts)) || { nap "$POLL"; return; }
  nap "$pause"
  pause=$((pause > 900 ? 1800 : 2 * pause))
}

again() { touch replacing; attempt delete create setup launch; }

halt() { stop restart; }  # not by the user: ends running programs before a new start

give_up() {  # the program failed: show the log of the host that failed first, stop all hosts
  local host code
  read -r host code < <(awk '$2 == "exited" && $3 && $3 != 75 { print $4, $1, $3 }' out | sort | cut -d' ' -f2-)
  on_hosts all "$SSH_LIMIT" log-of "$host" 20 && cat out >&2
  on_hosts all $((STOP_LIMIT + SSH_LIMIT)) stop "$STOP_LIMIT"
  die 3 "the program failed on $host with exit code $code, see above; fix it, then launch again; $COSTS"
}

supervise() {
  local started='' suspect='' attempts=0 pause=$BACKOFF  # attempts: since the last survey with a running program
  local partial=1  # a launch may have reached only some hosts
  [[ -n $MOUNT ]] || say "note: without --mount the workdir is lost when the slice is preempted"
  while true; do
    if [[ -n $started ]]; then survey ACTIVE; else survey MISSING; fi
    # At first, results of an earlier launch on the hosts do not count.
    [[ -n $started || $SITUATION == @(gone|coming|unknown|terminal|running) ]] || SITUATION=idle
    # In a preemption hosts disappear one by one, and programs fail before the state of the slice changes: look twice.
    if [[ $SITUATION == @(failed|terminal) && $SITUATION != "$suspect" ]]; then
      suspect=$SITUATION
      say "the program has failed or its host is gone; looking again in $GRACE s"
      nap "$GRACE"
      continue
    fi
    suspect=''
    case $SITUATION in
      running)
        # Each host answers that the program is already running, or that another command is.
        if [[ -z $partial ]] || attempt launch; then attempts=0 pause=$BACKOFF; fi ;;
      done)
        say "the program has ended with exit code 0"
        [[ -n $DELETE_WHEN_DONE ]] || { say "$COSTS"; return; }
        attempts=0 pause=$BACKOFF
        until attempt delete; do rest; done
        return ;;
      stopped) die 75 "the program was stopped by hand; $COSTS" ;;
      failed)  # perhaps only because some hosts were not reached
        [[ -n $partial ]] || give_up
        attempt launch ;;
      gone)
        [[ ! -e accepted || -e replacing || $STATE != @(MISSING|DELETING) ]] ||
          die 4 "$NAME was deleted by someone else"
        if [[ $STATE == MISSING ]]; then attempt create setup launch
        else say "$NAME is $STATE${WHY:+: $WHY}; creating it again"; again
        fi ;;
      terminal) say "the hosts of $NAME are preempted; creating it again"; again ;;
      coming) attempt create setup launch ;;
      idle) attempt setup launch ;;
      lost) say "a host came back without the program"; attempt halt setup launch ;;
      saved) say "the program saved and stopped (exit code 75); launching it again"; attempt launch ;;
      unknown) attempt unreachable ;;
    esac
    rest
  done
}

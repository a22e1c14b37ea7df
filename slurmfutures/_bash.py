"""What a rendered script carries along: functions of bash, from 4.2 on, that need no program but mkdir.

The script's own process only supervises: a shell below it runs setup, steps and teardown, all in one, in a process
group of its own. So a signal reaches the running command at once and not after it, and a step that ends its shell, by
`exit`, `set -e` or `exec`, ends nothing unseen: that shell says by a pipe that it came to its end, and with what code.

Users' text is run by `eval`, so that no quote, comment or heredoc in it reaches beyond it, and never inside a function,
so that `declare` and `return` mean there what they mean in a script. Users' options (`set -euC -o pipefail`), IFS,
CDPATH and traps are theirs: nothing here relies on them. Arrays are never empty, since 4.2 takes that for unset.
"""

#: Before the shell of the steps: `sf_errexit` is whether the script was started with -e.
BEGIN = """\
# Made by slurmfutures; the steps are at the end.
set +o posix # or there would be no function of the name trap
sf_errexit= sf_signal= sf_shell= sf_steps= sf_group= sf_theirs= sf_said=
case $- in *e*) sf_errexit=1; set +e ;; esac
sf_say() { printf 'slurmfutures: %s%s\\n' "$sf_group" "$1" >&2; }
sf_hear() { # a line from the shell of the steps: signals that it has traps of the user's for, and not any more; its end
    IFS= read -t 1 -r sf_line <&"$sf_pipe" # there is one, if no other signal has come between
    case $sf_line in
    +*) sf_theirs="$sf_theirs ${sf_line#+} " ;;
    -*) sf_theirs=${sf_theirs// ${sf_line#-} /} ;;
    *) sf_said=$sf_said$sf_line ;;
    esac
}
sf_pass() { # Slurm signals this process alone; what ends the script is passed on once, however often it is said
    case $1 in
    USR?) while [ -n "$sf_steps" ] && read -t 0 -r sf_line <&"$sf_pipe"; do sf_hear; done ;;
    *) [ -z "$sf_signal" ] || return 0; sf_signal=$1 ;;
    esac
    case $sf_theirs in
    *" $1 "*) kill -s "$1" "$sf_steps" ;; # theirs to handle, not the running command's
    *) [ -z "$sf_steps" ] || kill -s "$1" -- "-$sf_steps" ;;
    esac 2>/dev/null
}
for sf_name in HUP INT TERM USR1 USR2; do trap "sf_pass $sf_name" "$sf_name"; done
sf_own_traps() {
    for sf_name; do
        case $sf_name in
        USR?) builtin trap : "$sf_name" ;; # the running command has got it too
        *) builtin trap "sf_stop $sf_name" "$sf_name" ;;
        esac
    done
}
sf_stop() { # the running command is over: wait for those in the background, which may not heed what is no SIGTERM
    sf_signal=$1
    # Not ignored yet: one that is pending, such as the SIGTERM of a group, would end each wait at once.
    builtin trap : HUP INT TERM USR1 USR2
    [ "$1" = TERM ] || kill -s TERM 0
    for sf_name in 1 2 3 4 5 6 7 8 9; do wait && break; done
    builtin trap '' HUP INT TERM USR1 USR2
    exit "$((128 + $(kill -l "$1")))"
}
trap() { # the end of the steps' shell is ours; the user's trap for it is kept, and called there
    if [ "$BASHPID" != "$sf_shell" ] || [ "$#" -lt 2 ]; then builtin trap "$@"; return; fi
    case $1 in -[lp]*) builtin trap "$@"; return ;; --) shift ;; esac
    local sf_action=$1 sf_name
    shift
    for sf_name; do
        case $sf_action:$sf_name in
        -:EXIT | -:exit | -:0) sf_at_exit= ;;
        *:EXIT | *:exit | *:0) sf_at_exit=$sf_action ;;
        -:HUP | -:INT | -:TERM | -:USR[12] | -:SIGHUP | -:SIGINT | -:SIGTERM | -:SIGUSR[12])
            sf_own_traps "${sf_name#SIG}" ;;
        *) builtin trap -- "$sf_action" "$sf_name" || return ;;
        esac
        case $sf_group$sf_action:$sf_name in
        -:USR[12] | -:SIGUSR[12]) printf -- '-%s\\n' "${sf_name#SIG}" >&"$sf_pipe" ;;
        *:USR[12] | *:SIGUSR[12]) [ -n "$sf_group" ] || printf '+%s\\n' "${sf_name#SIG}" >&"$sf_pipe" ;;
        esac
    done
}
sf_enter() { # this shell is one in which steps run
    sf_shell=$BASHPID sf_at=$1 sf_why= sf_kind= sf_mark= sf_at_exit= sf_home=$PWD
    builtin trap sf_exit EXIT
    sf_own_traps HUP INT TERM USR1 USR2
}
sf_ready() { # after setup, with its exit code
    [ "$1" = 0 ] || exit "$1"
    sf_at= sf_home=$PWD
}
sf_begin() { # kind (stop, last, on), name, folder, checkpoint or nothing; false: the step is not to be run
    sf_kind=$1 sf_at=$2 sf_why= sf_mark=
    if ! builtin cd -- "$sf_home" >/dev/null 2>&1 || ! builtin cd -- "$3" >/dev/null 2>&1; then
        sf_why="its folder $3 cannot be entered"
        sf_done 66
        return 1
    fi
    [ -n "$4" ] || return 0
    case $4 in /*) sf_mark=$4 ;; *) sf_mark=$PWD/$4 ;; esac
    if [ -f "$sf_mark" ]; then
        sf_at= sf_mark=
        return 1
    fi
    if [ -d "$sf_mark" ] || { [ ! -d "${sf_mark%/*}/" ] && ! mkdir -p -- "${sf_mark%/*}/"; }; then
        sf_why="its checkpoint $4 cannot be made"
        sf_done 73
        return 1
    fi
}
sf_write_mark() { # the name alone counts, which appears at once or not at all
    [ -z "$sf_mark" ] || { printf '' >|"$sf_mark"; } 2>/dev/null || {
        sf_why="its checkpoint cannot be written"
        return 1
    }
}
sf_calm() { # before a shell of its own, which may fail without an end to this one
    case $- in *e*) sf_errexit=1; set +e ;; *) sf_errexit= ;; esac
}
sf_alone() { # in that shell
    sf_shell=
    sf_own_traps HUP INT TERM USR1 USR2
}
sf_strict() { [ -z "$sf_errexit" ] || set -e; }
sf_done() { # after a step, with its exit code
    if [ "$1" = 0 ]; then
        if sf_write_mark; then
            sf_at=
            return 0
        fi
        set -- 73
    fi
    [ "$sf_kind" = on ] || exit "$1"
    sf_tell "$1" ', the script goes on'
    sf_at=
}
sf_tell() { # exit code, and what follows from it
    local sf_name=
    if [ -n "$sf_why" ]; then
        sf_say "$sf_at failed: $sf_why${2-}"
    else
        [ "$1" -le 128 ] || sf_name=$(kill -l "$1" 2>/dev/null) || sf_name=
        sf_say "$sf_at failed with exit code $1${sf_name:+ (signal $sf_name)}${2-}"
    fi
}
sf_exit() { # however the shell of the steps ends
    sf_code=$?
    case $- in *e*) sf_errexit=1 ;; *) sf_errexit= ;; esac
    { set +ex; } 2>/dev/null
    builtin trap '' HUP INT TERM USR1 USR2
    if [ -n "$sf_at" ]; then
        if [ -n "$sf_signal" ]; then
            sf_say "$sf_at was ended by signal $sf_signal"
        elif [ "$sf_code" = 0 ] && [ "$sf_kind" = last ]; then # an exit that skips nothing
            sf_write_mark || { sf_code=73; sf_tell 73; }
        elif [ "$sf_code" = 0 ]; then
            sf_say "$sf_at ended the script by exit 0 before its end: put the step's command into parentheses"
            sf_code=1
        else
            sf_tell "$sf_code"
        fi
    fi
    [ -z "$sf_at_exit" ] || ( (exit "$sf_code"); eval -- "$sf_at_exit" )
    [ -z "$sf_group" ] || exit "$sf_code"
    ( builtin cd -- "$sf_home" && sf_strict && sf_teardown )
    sf_down=$?
    if [ "$sf_down" != 0 ]; then
        sf_say "teardown failed with exit code $sf_down"
        [ "$sf_code" != 0 ] || sf_code=$sf_down
    fi
    printf '%s\\n' "$sf_code" >&"$sf_pipe"
    exit "$sf_code"
}
"""

#: For scripts with groups. The pipe has a line for each free GPU: its place, the group that had it, its exit code.
GROUPS = """\
sf_gpus() { # ids from the caller or nothing; finds those of the job, and the variable by which programs are told theirs
    local sf_list=$1 sf_gpu sf_slot=0
    sf_variable=CUDA_VISIBLE_DEVICES
    [ ! -e /dev/kfd ] || sf_variable=ROCR_VISIBLE_DEVICES
    if [ -n "$sf_list" ]; then
        :
    elif [ -n "${ROCR_VISIBLE_DEVICES-}" ] && { [ -e /dev/kfd ] || [ -z "${CUDA_VISIBLE_DEVICES-}" ]; }; then
        sf_variable=ROCR_VISIBLE_DEVICES sf_list=$ROCR_VISIBLE_DEVICES
    elif [ -n "${HIP_VISIBLE_DEVICES-}" ] && [ -z "${CUDA_VISIBLE_DEVICES-}" ]; then
        sf_variable=HIP_VISIBLE_DEVICES sf_list=$HIP_VISIBLE_DEVICES
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        sf_variable=CUDA_VISIBLE_DEVICES sf_list=$CUDA_VISIBLE_DEVICES
    elif [[ ${SLURM_GPUS_ON_NODE-} =~ ^[0-9]+$ ]]; then
        while [ "$sf_slot" -lt "$SLURM_GPUS_ON_NODE" ]; do sf_list=$sf_list,$((sf_slot++)); done
        sf_slot=0
    else
        sf_list=${SLURM_STEP_GPUS-}
    fi
    set +o posix # which has no <() in old ones
    exec {sf_pipe}<> <(:)
    sf_list=${sf_list//[[:space:]]/},
    while [ -n "$sf_list" ]; do
        sf_gpu=${sf_list%%,*} sf_list=${sf_list#*,}
        case $sf_gpu in '' | NoDevFiles) continue ;; -*) break ;; esac
        sf_gpus[sf_slot]=$sf_gpu
        printf '%s 0 0\\n' "$sf_slot" >&"$sf_pipe"
        sf_slot=$((sf_slot + 1))
    done
    sf_slots=$sf_slot sf_failed= sf_first=0
    [ "$sf_slots" -gt 0 ] || {
        sf_say "no GPU can be seen: ask for some in the header (#SBATCH --gpus=2), or name them by devices="
        exit 69
    }
}
sf_next() { # waits for a free GPU
    local sf_ended sf_code
    IFS=' ' read -r sf_slot sf_ended sf_code <&"$sf_pipe"
    [ "$sf_code" = 0 ] || {
        sf_failed=$sf_failed${sf_failed:+, }$sf_ended
        [ "$sf_first" != 0 ] || sf_first=$sf_code
    }
}
sf_on_gpu() { # number of the group, number of groups
    exec {sf_pipe}>&-
    sf_group="group $1 of $2 on GPU ${sf_gpus[sf_slot]}, "
    sf_enter ''
    unset CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES GPU_DEVICE_ORDINAL
    export "$sf_variable=${sf_gpus[sf_slot]}"
    sf_strict
}
sf_groups_over() { # number of groups; one line is left to be read for each GPU
    while [ "$sf_slots" -gt 0 ]; do
        sf_next
        sf_slots=$((sf_slots - 1))
    done
    [ -z "$sf_failed" ] || sf_say "of $1 groups failed: $sf_failed"
    exit "$sf_first"
}
"""

#: What stands around the shell of the steps.
START = """\
exec {sf_pipe}<> <(:)
set -m
(
sf_enter setup
sf_strict
"""
END = """\
exit 0
) &
sf_steps=$!
set +m
[ -z "$sf_signal" ] || kill -s "$sf_signal" -- "-$sf_steps" 2>/dev/null
while kill -0 "$sf_steps" 2>/dev/null; do wait "$sf_steps"; done # a signal ends the wait, not the steps
wait "$sf_steps"
sf_code=$?
builtin trap '' HUP INT TERM USR1 USR2
echo >&"$sf_pipe"
sf_line=.
while [ -n "$sf_line" ]; do sf_hear; done
if [ -z "$sf_said" ]; then
    [ "$sf_code" != 0 ] || sf_code=1
    sf_say "the shell of the steps was killed, or replaced by exec: what was to follow has not run"
fi
exit "${sf_said:-$sf_code}"
"""

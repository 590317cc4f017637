# Functions of the job scripts beside this file; sourced, not run. docs/slurm.md tells the whole story.
#
# What became of the trainer is in its run directory (status.json, checkpoints/latest), not in srun's exit status:
# that is 0 after a node failure too, and 143 after a clean stop.
#
# Settings, all optional, from the environment (sbatch --export, or `NAME=value launch/slurm/submit.sh ...`):
#   LAUNCHER=srun|torchrun|deepspeed   who starts the ranks; srun has the fewest moving parts
#   SITE=FILE                          sourced first: modules, the environment, NCCL_* of this cluster
#   PYTHON=python                      what runs the trainer
#   MAX_TRIES=3                        tries without progress before the job gives up
#   PREFLIGHT=1                        0 leaves out the check of every node
#   RETRY_SECONDS=5                    between two tries; before the third of a run that has a checkpoint 120 times as much
#   STOP_MARGIN_SECONDS=60             the trainer is told to be done so long before the time limit
# shellcheck shell=bash
# shellcheck disable=SC2154  # run_path and shards come from describe.py

LAUNCHER=${LAUNCHER:-srun}
MAX_TRIES=${MAX_TRIES:-3}
PREFLIGHT=${PREFLIGHT:-1}
STOP_MARGIN_SECONDS=${STOP_MARGIN_SECONDS:-60}
RETRY_SECONDS=${RETRY_SECONDS:-5}
LAST_SECONDS=10 # before the limit: what stays for requeueing a job whose trainer has not stopped

say() { echo "$(date '+%F %T') job ${SLURM_JOB_ID} attempt ${SLURM_RESTART_COUNT:-0}: $*"; }

# The value of a key of status.json, or nothing.
read_status() {
    "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2], ""))' \
        "$run_path/status.json" "$1" 2>/dev/null || true
}

# The step of the newest checkpoint, 0 without one.
read_step() {
    local name
    name=$(cat "$run_path/checkpoints/latest" 2>/dev/null) || name=step_0
    echo $((10#${name#step_}))
}

# A port outside the ephemeral range, another one for each try, so that a dying process of the last cannot hold it.
choose_port() { echo $((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0} * 101 + $1 * 13) % 12000)); }

# When the time limit ends the job, in seconds since 1970; nothing without a limit, or if SLURM does not answer.
find_end_time() {
    local end
    end=$(squeue --noheader --job "$(name_job)" --format %e 2>/dev/null)
    [ -z "$end" ] || date -d "$end" +%s 2>/dev/null || true # of nothing, date makes the last midnight
}

# Wait for some seconds, or until a signal asks for something else: bash hears one only when a command has ended.
pause() {
    local waited
    for ((waited = 0; waited < $1; waited++)); do
        [ -z "$is_stopping$is_terminated" ] || return
        sleep 1
    done
}

# How SLURM calls this job; of an array, this element.
name_job() {
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then echo "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"; else echo "$SLURM_JOB_ID"; fi
}

# Whether the run is finished: its summary says so, as to the trainer; status.json may not have been written any more.
is_finished() { [ -e "$run_path/summary.json" ]; }

# Sets `tries` to the tries in a row that brought no checkpoint, over all attempts of the job.
read_tries() {
    tries=$(cat "$run_path/logs/tries" 2>/dev/null)
    [[ $tries =~ ^[0-9]+$ ]] || tries=0
}

# Counts for this attempt even where it cannot be written: a full disk must not make a job try for ever.
write_tries() {
    tries=$1
    echo "$1" >"$run_path/logs/tries"
}

# Count a try that began at a checkpoint of step $1.
count_try() {
    if [ "$(read_step)" -gt "$1" ]; then write_tries 0; else write_tries $((tries + 1)); fi
}

# Look at every node; sets bad_nodes to the names of those that must not train.
check_nodes() {
    local log="$run_path/logs/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.preflight" versions
    versions=$("$PYTHON" "$ROOT/launch/slurm/preflight.py" --print-versions)
    # shellcheck disable=SC2016  # expanded on the node
    timeout 180 srun --overlap --ntasks-per-node=1 --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=0 \
        bash -c 'node=$SLURMD_NODENAME; exec "$@" --node "$node"' _ \
        "$PYTHON" "$ROOT/launch/slurm/preflight.py" --gpus "${SLURM_GPUS_ON_NODE:-0}" --now "$(date +%s)" \
        --run-path "$run_path" --shards "$shards" --versions "$versions" >"$log" 2>&1
    bad_nodes=$(sed -n 's/^bad \([^:]*\):.*/\1/p' "$log" | paste -sd,)
    local node
    for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        grep -qE "^(ok $node\$|bad $node:)" "$log" || { echo "bad $node: did not answer" >>"$log"; bad_nodes+=${bad_nodes:+,}$node; }
    done
    if [ -n "$bad_nodes" ]; then
        sed -n 's/^bad //p' "$log" | while read -r line; do
            say "preflight: $line"
            echo "$(date '+%F %T') $line" >>"$run_path/bad_nodes"
        done
    else
        say "preflight: $SLURM_JOB_NUM_NODES nodes ok"
    fi
}

# The command of one rank's, or one node's, process: in the array `command`, with its tasks per node in `tasks`.
build_command() {
    local trainer=("$ROOT/launch/$stage.py" --config "$config" "${overrides[@]}")
    [ -z "$end_time" ] || trainer+=("run.stop_at=$((end_time - STOP_MARGIN_SECONDS))")
    local per_node=${SLURM_NTASKS_PER_NODE:-1}
    [ "$LAUNCHER" = srun ] || per_node=${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
    case $LAUNCHER in
    srun)
        tasks=$per_node
        command=("$PYTHON" -u "${trainer[@]}")
        ;;
    torchrun)
        tasks=1
        command=("$PYTHON" -u -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$per_node"
            --node-rank @NODE@ --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" "${trainer[@]}")
        ;;
    deepspeed)
        tasks=1
        scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$per_node/" >"$run_path/logs/hostfile"
        command=("$PYTHON" -u -m deepspeed.launcher.runner --no_ssh --node_rank @NODE@ --hostfile "$run_path/logs/hostfile"
            --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" "${trainer[@]}")
        ;;
    *)
        say "LAUNCHER=$LAUNCHER is unknown; choose srun, torchrun or deepspeed"
        exit 2
        ;;
    esac
}

# Run the trainer once, to its end. USR1 is passed on to every rank, never TERM: srun answers that with SIGKILL for all.
run_once() {
    MASTER_PORT=$(choose_port "$1")
    export MASTER_PORT
    build_command
    log="$run_path/logs/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.$1"
    rm -f "$run_path/status.json" # or a state of the last attempt would hide a crash at the start
    # USR1 and USR2 are ignored until Python installs its handlers: else one that comes before kills the rank, or its
    # launcher. One log file a task.
    # shellcheck disable=SC2016  # expanded in the task
    srun --kill-on-bad-exit=1 --wait=60 --unbuffered --ntasks-per-node="$tasks" \
        --ntasks="$((SLURM_JOB_NUM_NODES * tasks))" --output="$log-%t.log" \
        bash -c 'trap "" USR1 USR2; for word; do shift; set -- "$@" "${word/#@NODE@/$SLURM_NODEID}"; done; exec "$@"' _ \
        "${command[@]}" &
    srun_pid=$!
    [ -z "$is_stopping" ] || kill -USR1 "$srun_pid"
    # `wait` ends early each time a trapped signal comes.
    while kill -0 "$srun_pid" 2>/dev/null; do wait "$srun_pid"; code=$?; done
    srun_pid=
}

# Give the job back to the queue, to go on later; does not return.
requeue() {
    local refused=0
    until scontrol requeue "$(name_job)" 2>&1; do
        # A controller that is away (restarts, is overloaded) has not said no: it is asked until the job is ended.
        [ -z "$is_terminated" ] || exit 143
        if scontrol ping 2>/dev/null | grep -q ' UP'; then refused=$((refused + 1)); fi
        [ "$refused" -lt 3 ] || refuse_requeue
        sleep "$RETRY_SECONDS"
    done
    sleep 600 # killed in its sleep
    [ -z "$is_terminated" ] || exit 143
    refuse_requeue
}

# Give the job back shortly before its limit, whatever the trainer is at then (an evaluation, a disk that hangs): a job
# that its limit ends is not requeued. Waits without a process of its own, which would outlive this one.
requeue_before_limit() {
    local left nothing end
    end=$(find_end_time)   # anew: it may have been moved
    end=${end:-$end_time} # as it was, where a controller is away just now
    [ -n "$end" ] || return
    left=$((end - LAST_SECONDS - $(date +%s)))
    exec {nothing}<> <(:)
    [ "$left" -le 0 ] || read -r -t "$left" -u "$nothing"
    count_try "${before:-0}"
    say "the trainer has not stopped in time, $tries of $MAX_TRIES tries without progress"
    if [ "$tries" -ge "$MAX_TRIES" ]; then
        write_tries 0
        return
    fi
    for ((left = LAST_SECONDS; left > 0; left--)); do
        ! scontrol requeue "$(name_job)" 2>&1 || return
        read -r -t 1 -u "$nothing"
    done
}

refuse_requeue() {
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        say "no right to requeue: the array's next element goes on"
        exit 0
    fi
    say "no right to requeue: submit again, or as a chain (launch/slurm/submit.sh --chain N)"
    exit 1
}

# Decide what follows from what became of a try; returns only if there is to be another one in this allocation.
# $1: the checkpoint's step before the try.
decide() {
    local state reason step seconds
    state=$(read_status state) reason=$(read_status reason) step=$(read_step)
    say "srun ended with $code; status ${state:-none}${reason:+ ($reason)}, checkpoint of step $1 -> $step"
    ! is_finished || exit 0
    if [ -n "$is_terminated" ]; then
        say "SIGTERM (scancel, or the time limit): not requeued"
        exit 143
    fi
    if [ -e "$run_path/STOP" ]; then
        say "remove $run_path/STOP and submit again to go on"
        exit 0
    fi
    count_try "$1"
    if [ "$tries" -ge "$MAX_TRIES" ]; then
        say "no progress in $tries tries: given up; the last lines of $log-0.log:"
        tail -n 5 "$log-0.log" 2>/dev/null
        write_tries 0 # for whoever submits again, after mending it
        exit 1
    fi
    if [ "$state" = stopped ] || [ -n "$is_stopping" ]; then requeue; fi
    # A run that has trained before is worth waiting for: SLURM takes 5 minutes to see that a node is gone (and requeues
    # the job itself), a disk's server longer to come back.
    seconds=$((tries > 1 && step > 0 ? 120 * RETRY_SECONDS : RETRY_SECONDS))
    say "a failure, $tries of $MAX_TRIES without progress: again in this allocation in $seconds s"
    tail -n 3 "$log-0.log" 2>/dev/null
    pause "$seconds"
    [ -z "$is_terminated" ] || exit 143
    [ -z "$is_stopping" ] || requeue
}

# USR1: the limit, or a preemption, is near.
hear_warning() {
    [ -z "$srun_pid" ] || kill -USR1 "$srun_pid"
    if [ -z "$is_stopping" ]; then
        is_stopping=1
        requeue_before_limit &
        limit_pid=$!
    fi
}

# run_job pretrain|finetune|dense CONFIG [key=value ...]: all attempts of a training run under SLURM.
run_job() {
    stage=$1 config=$2 overrides=("${@:3}")
    is_stopping='' is_terminated='' srun_pid='' limit_pid=''
    trap hear_warning USR1
    trap '[ -z "$limit_pid" ] || kill "$limit_pid" 2>/dev/null' EXIT
    trap 'is_terminated=1' TERM
    # shellcheck disable=SC1090  # the user's
    [ -z "${SITE:-}" ] || . "$SITE" || { say "SITE=$SITE failed"; exit 2; }
    PYTHON=${PYTHON:-python}
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" # this checkout's code, whichever one is installed
    local described
    described=$("$PYTHON" "$ROOT/launch/slurm/describe.py" "$config" "${overrides[@]}") || exit 2
    eval "$described" # run_path, shards: quoted by describe.py
    mkdir -p "$run_path/logs"
    ! is_finished || { say "$run_path is finished"; exit 0; }
    [ ! -e "$run_path/STOP" ] || { say "$run_path/STOP is there: not started"; exit 0; }
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export MASTER_ADDR OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONFAULTHANDLER=1
    # srun 22.05 to 23.02 does not inherit it, and would give each task one CPU.
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
    read_tries
    end_time=$(find_end_time)
    say "$stage in $run_path from step $(read_step) on $SLURM_JOB_NODELIST, until $([ -z "$end_time" ] && echo stopped || date -d "@$end_time" '+%F %T')"
    env | grep -E '^(NCCL|TORCH|GLOO)_' | sort >"$run_path/logs/$SLURM_JOB_ID.environment" || true
    if [ "$PREFLIGHT" = 1 ]; then
        check_nodes
        # What a job before this one left behind may just be going: memory of a GPU, a disk's server that hangs.
        [ -z "$bad_nodes" ] || { pause $((6 * RETRY_SECONDS)); check_nodes; }
        [ -z "$bad_nodes" ] || { say "submit again with --exclude=$bad_nodes"; exit 1; }
    fi
    local try=0 before
    while :; do
        before=$(read_step)
        run_once "$try"
        decide "$before"
        try=$((try + 1))
    done
}

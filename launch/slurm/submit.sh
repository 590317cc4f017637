#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'TEXT'
launch/slurm/submit.sh [options] pretrain|finetune|dense CONFIG [key=value ...]

Submits a training run; the job takes care of time limits, preemption, crashes and node failures (docs/slurm.md).

  --after JOBID     start when that job has ended well: finetuning after its pretraining
  --chain N         N jobs, one after the other, where jobs may not be requeued
  --test            ask SLURM whether and when it would start (sbatch --test-only), submit nothing
  --dry-run         submit nothing, but try all that can be tried here: SLURM's opinion, the plan, the shards and the run
                    directory, two steps on CPUs, the signal before the limit, a resume; ends with yes or no
  --SOMETHING[=X]   handed to sbatch: --nodes=4 --time=48:00:00 --partition=gpu --account=me

  launch/slurm/submit.sh --nodes=8 pretrain configs/pretrain/hornet_large_gf_in22k.yaml run.name=large
  launch/slurm/submit.sh --after 4711 finetune configs/finetune/hornet_large_gf_in1k_384.yaml start.from=runs/large

From the environment: SITE=FILE LAUNCHER=srun|torchrun|deepspeed PYTHON=python MAX_TRIES=3 (launch/slurm/job.sh), and
for --dry-run GPU=h100-80 (launch/plan.py --help lists them).
A list of runs instead: sbatch --array=1-N launch/slurm/study.sbatch LIST
TEXT
}

fail() {
    echo "submit.sh: $*" >&2
    exit 2
}

# sbatch's own errors, after one sentence where there is no cluster behind it.
submit() {
    local errors='' status=0
    { errors=$(sbatch "$@" 2>&1 >&3) || status=$?; } 3>&1
    case $errors in
    *'command not found'* | *'configuration source'* | *'unable to status file'*)
        echo "submit.sh: no SLURM cluster is set up on this machine; submit on one of a cluster, or name its slurm.conf in SLURM_CONF" >&2
        ;;
    esac
    [ -z "$errors" ] || echo "$errors" >&2
    return "$status"
}

# What a job asks for: among the options, else in its script.
find_option() {
    local option value
    value=$(sed -n "s/^#SBATCH --$1=//p" "$root/launch/slurm/$stage.sbatch")
    for option in "${options[@]}"; do
        case $option in "--$1="*) value=${option#*=} ;; esac
    done
    echo "$value"
}

# As find_option, for a number; what stands before it is a kind of GPU (h100:8).
find_count() {
    local value
    value=$(find_option "$1")
    [[ ${value##*:} =~ ^[0-9]+$ ]] || fail "--$1=$value: the dry run needs one number"
    echo "${value##*:}"
}

# try NAME COMMAND...: show what it says; remember whether it failed.
try() {
    printf '\n=== %s\n' "$1"
    "${@:2}" </dev/null 2>&1 || failed+=("$1")
}

dry_run() {
    local failed=() signal lead=60 per_node nodes num_ranks # 60: SLURM's own, where --signal says none
    nodes=$(find_count nodes)
    per_node=$(find_count ntasks-per-node)
    [ "${LAUNCHER:-srun}" = srun ] || per_node=${RANKS_PER_NODE:-$(find_count gpus-per-node)}
    num_ranks=$((nodes * per_node))
    signal=$(find_option signal)
    [ "${signal##*@}" = "$signal" ] || lead=${signal##*@}
    try "would SLURM take it?" submit --test-only "${options[@]}" "$root/launch/slurm/$stage.sbatch" "$@"
    try "the plan" "$PYTHON" "$root/launch/plan.py" --config "$@" --gpus "$num_ranks" \
        --time-limit "$(find_option time)" --signal-lead "$lead" ${GPU:+--gpu "$GPU"}
    try "the rehearsal" "$PYTHON" "$root/launch/slurm/rehearse.py" --config "$@" --ranks "$num_ranks"
    echo
    if [ ${#failed[@]} -gt 0 ]; then
        echo "no: see above, $(printf '"%s" ' "${failed[@]}")"
        return 1
    fi
    echo "yes: the same command without --dry-run submits it"
}

options=() is_dry=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --after)
        options+=("--dependency=afterok:${2:?--after needs a job number}" --kill-on-invalid-dep=yes)
        shift 2
        ;;
    --chain)
        options+=("--array=1-${2:?--chain needs a number of jobs}%1" --no-requeue)
        shift 2
        ;;
    --test) options+=(--test-only) && shift ;;
    --dry-run) is_dry=1 && shift ;;
    --*) options+=("$1") && shift ;;
    -*) fail "$1 is unknown; sbatch's own options are given as --name=value, ours are in --help" ;;
    *) break ;;
    esac
done
[ $# -ge 2 ] || { usage >&2 && exit 2; }
stage=$1 config=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
case $stage in pretrain | finetune | dense) ;; *) fail "$stage is no stage; choose pretrain, finetune or dense" ;; esac
[ "$stage$is_dry" != dense1 ] || fail "--dry-run: dense has no plan and no rehearsal; --test asks SLURM alone"
[ -f "$config" ] || fail "$config: no such config; see configs/$stage/"
[ -z "${SITE:-}" ] || [ -f "$SITE" ] || fail "SITE=$SITE: no such file"
PYTHON=${PYTHON:-python}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" # this checkout's code, whichever one is installed
described=$("$PYTHON" "$root/launch/slurm/describe.py" "$config" "${@:3}") || exit 2
eval "$described"
export HORNET_ROOT=$root
if [ -n "$is_dry" ]; then
    dry_run "${@:2}"
    exit
fi
submit "${options[@]}" "$root/launch/slurm/$stage.sbatch" "${@:2}"
# shellcheck disable=SC2154  # from describe.py
echo "run directory: $run_path (logs in $run_path/logs); stop it for good: touch $run_path/STOP"

#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'TEXT'
launch/slurm/submit.sh [options] pretrain|finetune CONFIG [key=value ...]

Submits a training run; the job takes care of time limits, preemption, crashes and node failures (docs/slurm.md).

  --after JOBID     start when that job has ended well: finetuning after its pretraining
  --chain N         N jobs, one after the other, where jobs may not be requeued
  --test            ask SLURM whether and when it would start (sbatch --test-only), submit nothing
  --SOMETHING[=X]   handed to sbatch: --nodes=4 --time=48:00:00 --partition=gpu --account=me

  launch/slurm/submit.sh --nodes=8 pretrain configs/pretrain/hornet_large_gf_in22k.yaml run.name=large
  launch/slurm/submit.sh --after 4711 finetune configs/finetune/hornet_large_gf_in1k_384.yaml start.from=runs/large

From the environment: SITE=FILE LAUNCHER=srun|torchrun|deepspeed PYTHON=python MAX_TRIES=3 (launch/slurm/job.sh).
A list of runs instead: sbatch --array=1-N launch/slurm/study.sbatch LIST
TEXT
}

fail() {
    echo "submit.sh: $*" >&2
    exit 2
}

options=()
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
    --*) options+=("$1") && shift ;;
    -*) fail "$1 is unknown; sbatch's own options are given as --name=value, ours are in --help" ;;
    *) break ;;
    esac
done
[ $# -ge 2 ] || { usage >&2 && exit 2; }
stage=$1 config=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
case $stage in pretrain | finetune) ;; *) fail "$stage is no stage; choose pretrain or finetune" ;; esac
[ -f "$config" ] || fail "$config: no such config; see configs/$stage/"
[ -z "${SITE:-}" ] || [ -f "$SITE" ] || fail "SITE=$SITE: no such file"
described=$("${PYTHON:-python}" "$root/launch/slurm/describe.py" "$config" "${@:3}") || exit 2
eval "$described"
export HORNET_ROOT=$root
sbatch "${options[@]}" "$root/launch/slurm/$stage.sbatch" "${@:2}"
# shellcheck disable=SC2154  # from describe.py
echo "run directory: $run_path (logs in $run_path/logs); stop it for good: touch $run_path/STOP"

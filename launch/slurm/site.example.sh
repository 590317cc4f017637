# What is true for one cluster only. Copy it out of the repository, edit, and submit with SITE=that/file.
# shellcheck shell=bash
#
# module load cuda/13
# source /path/to/hornet/.venv/bin/activate
#
# export NCCL_SOCKET_IFNAME=ib0              # the interface for NCCL's bootstrap
# export GLOO_SOCKET_IFNAME=$NCCL_SOCKET_IFNAME
# export NCCL_IB_HCA=mlx5_0,mlx5_1
# export NCCL_DEBUG=WARN
# export TORCH_FR_BUFFER_SIZE=2000           # NCCL's flight recorder, written on a timeout
# export TORCH_NCCL_DUMP_ON_TIMEOUT=1
# export TMPDIR=/local/$SLURM_JOB_ID TRITON_CACHE_DIR=/local/$SLURM_JOB_ID/triton

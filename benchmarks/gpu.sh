#!/usr/bin/env bash
# All that waits for a GPU, with the machine's own python: benchmarks/gpu.py says what and writes where.
#   benchmarks/gpu.sh [--out DIR] [--seconds N] [--parts A+B] [--smoke]          $OUT, if it is set, is DIR
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu ${OUT:+--out "$OUT"} "$@"

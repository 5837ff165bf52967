#!/usr/bin/env bash
# Train in several processes: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# One process per GPU; on a machine without GPUs they run on the CPU, with OMP_NUM_THREADS (1) threads each.
# Several machines: set NNODES, NODE_RANK (from 0), MASTER_ADDR (of the first) and PORT on each of them.
set -euo pipefail
# shellcheck source=tools/launch.sh
source "$(dirname "$0")/launch.sh"
[ $# -ge 2 ] || usage
with_torchrun "$2" train.py "$1" "${@:3}"

#!/usr/bin/env bash
# Evaluate in several processes: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# One process per GPU; on a machine without GPUs they run on the CPU, with OMP_NUM_THREADS (1) threads each.
# Several machines: set NNODES, NODE_RANK (from 0), MASTER_ADDR (of the first) and PORT on each of them.
set -euo pipefail
# shellcheck source=tools/launch.sh
source "$(dirname "$0")/launch.sh"
[ $# -ge 3 ] || usage
with_torchrun "$3" test.py "$1" "$2" "${@:4}"

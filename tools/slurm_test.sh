#!/usr/bin/env bash
# Evaluate under Slurm: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# Environment: GPUS (8), GPUS_PER_NODE (8, or GPUS if fewer), CPUS_PER_TASK (5), SRUN_ARGS (further options of
# srun; --gres=none runs on CPUs), MASTER_PORT (a random one).
set -euo pipefail
# shellcheck source=tools/launch.sh
source "$(dirname "$0")/launch.sh"
[ $# -ge 4 ] || usage
with_srun "$1" "$2" test.py "${@:3}"

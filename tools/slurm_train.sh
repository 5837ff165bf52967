#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# Environment: GPUS (8), GPUS_PER_NODE (8, or GPUS if fewer), CPUS_PER_TASK (5), SRUN_ARGS (further options of
# srun; --gres=none runs on CPUs), MASTER_PORT (a random one).
set -euo pipefail
# shellcheck source=tools/launch.sh
source "$(dirname "$0")/launch.sh"
[ $# -ge 3 ] || usage
with_srun "$1" "$2" train.py "${@:3}"

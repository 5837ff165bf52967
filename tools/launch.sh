# shellcheck shell=bash
# Functions that start several processes of a tool; dist_*.sh and slurm_*.sh source them.
tools=$(dirname "${BASH_SOURCE[0]}")
python=${PYTHON:-python}
# Each process has one thread, which torchrun and mmengine would choose too, with a warning each.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"

# Print the comment at the top of the calling script, and end.
usage() {
  sed -n '2,/^[^#]/s/^# //p' "$0" >&2
  exit 2
}

# with_torchrun PROCESSES TOOL ARGUMENTS...
with_torchrun() {
  local meeting=(--standalone --local-addr=127.0.0.1) # on a free port
  if [ "${NNODES:-1}" != 1 ]; then
    meeting=(--nnodes="$NNODES" --node-rank="${NODE_RANK:?has to be set where NNODES is}"
      --master-addr="${MASTER_ADDR:?has to be set where NNODES is}" --master-port="${PORT:-29500}")
  elif [ -n "${PORT:-}" ]; then
    meeting=(--master-addr=127.0.0.1 --master-port="$PORT")
  fi
  exec "$python" -m torch.distributed.run "${meeting[@]}" --nproc-per-node="$1" \
    "$tools/$2" --launcher pytorch "${@:3}"
}

# with_srun PARTITION JOB_NAME TOOL ARGUMENTS...
with_srun() {
  local gpus=${GPUS:-8}
  local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  # The port is the same for all processes, and another one for the next job on the machine.
  export MASTER_PORT="${MASTER_PORT:-$((10000 + RANDOM % 20000))}"
  # shellcheck disable=SC2086 # several arguments in one variable
  exec srun --partition="$1" --job-name="$2" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "$python" -u "$tools/$3" --launcher slurm "${@:4}"
}

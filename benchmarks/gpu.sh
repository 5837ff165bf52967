#!/usr/bin/env bash
# Builds, tests, sanitizes and measures mmsparx on a GPU, with torch, mmengine, timm and pytest alone: no mmcv.
#
#   benchmarks/gpu.sh                      everything
#   benchmarks/gpu.sh build tests op      some stages, in the order in which they are named
#
# Stages: build, tests, sanitize, op, maps, peers, network, compiled-bf16, compiled-tf32. A stage goes on after a step
# that fails, and the exit status is then 1. Each writes a log for every step, and benchmarks their results, to OUT.
#
#   OUT                    (default: work_dirs/gpu)
#   PYTHON                 (default: .venv/bin/python where it is, else python3)
#   DEVICE                 cuda, or cuda:1; with cpu the same steps are made on small sizes, to try them (default: cuda)
#   MMSPARX_SKIP_BUILD=1   takes the extension as it is
#   TORCH_CUDA_ARCH_LIST   what it is compiled for (default: the GPU that is seen)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAGES=(build tests sanitize op maps peers network compiled-bf16 compiled-tf32)
OUT=${OUT:-work_dirs/gpu}
DEVICE=${DEVICE:-cuda}
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
# What is tested and measured is this checkout, whether it is installed or not.
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

failed=()

# step NAME COMMAND...: runs it, with a log; a failure is kept for the end.
step() {
  local name=$1 start=$SECONDS
  shift
  printf '\n==> %s: %s\n' "$name" "$*"
  if "$@" 2>&1 | tee "$OUT/$name.log"; then
    printf '==> %s: done in %d s\n' "$name" "$((SECONDS - start))"
  else
    failed+=("$name")
    printf '==> %s: FAILED after %d s\n' "$name" "$((SECONDS - start))"
  fi
}

on_gpu() { [ "$DEVICE" != cpu ]; }
has() { "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }
benchmark() { step "$1" "$PYTHON" -m "benchmarks.$2" --device "$DEVICE" --out "$OUT" --name "$1" "${@:3}"; }

stage_build() {
  if [ "${MMSPARX_SKIP_BUILD:-}" = 1 ]; then
    echo 'build: left out, MMSPARX_SKIP_BUILD=1'
    return
  fi
  local settings=(MMSPARX_WITH_OPS=1)
  if on_gpu; then
    local seen='import sys, torch; print("{}.{}".format(*torch.cuda.get_device_capability(sys.argv[1])))'
    settings+=(FORCE_CUDA=1 "TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$PYTHON" -c "$seen" "$DEVICE")}")
  fi
  # By setup.py itself: pip would look for build requirements on the network, or want an environment to install into.
  step build env "${settings[@]}" "$PYTHON" setup.py build_ext --inplace
}

stage_tests() {
  local folders=(tests/test_ops tests/test_layers tests/test_models tests/test_analysis tests/test_benchmarks)
  local parallel=()
  if has xdist; then
    parallel=(-n auto --maxprocesses 8 --dist loadfile)
  fi
  on_gpu || folders=(tests/test_analysis)
  step tests "$PYTHON" -m pytest -q -p no:cacheprovider ${parallel[@]+"${parallel[@]}"} "${folders[@]}"
}

stage_sanitize() {
  local scans=("$PYTHON" -m benchmarks.sanitize --device "$DEVICE") tool
  if ! on_gpu; then
    step scans "${scans[@]}" --backend reference --lengths 1 49 --states 1 5 --maps 7x7
    return
  fi
  step scans "${scans[@]}" --wide
  if ! command -v compute-sanitizer >/dev/null; then
    echo 'sanitize: there is no compute-sanitizer on PATH (it comes with the CUDA toolkit): nothing was sanitized'
    return
  fi
  for tool in memcheck racecheck; do
    step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 "${scans[@]}" --wide \
      --lengths 1 49 784 3137 --states 1 5 16 --maps 7x7 14x14 65x78
  done
}

# The kernels at the networks' sizes; then without what Python takes to launch them, which small cases consist of.
stage_op() {
  local sizes=(--images 224 --batches 1 8 128 --seconds 1 --samples 15)
  local kernels=(native triton mamba-ssm) type
  if ! on_gpu; then
    benchmark op_float32 selective_scan --networks tiny --images 32 --batches 1 --stages 3 4 \
      --passes forward backward --seconds 0.01 --samples 3 --contenders reference unbind
    return
  fi
  for type in float32 bfloat16; do
    benchmark "op_$type" selective_scan "${sizes[@]}" --passes forward backward --dtype "$type" \
      --contenders "${kernels[@]}"
  done
  benchmark op_bfloat16_graphs selective_scan "${sizes[@]}" --passes forward backward --dtype bfloat16 \
    --networks tiny --cuda-graphs --contenders "${kernels[@]}"
}

# What the networks call: maps along four directions, by kernels of their own and by plain scans. T, and a detector's
# picture; no more samples than leave the stage some two minutes.
stage_maps() {
  local kernels=(native native-plain triton triton-plain mamba-ssm-plain) type
  local settings=(--networks tiny --passes forward backward --seconds 0.5 --samples 7 --contenders "${kernels[@]}")
  if ! on_gpu; then
    benchmark maps_float32 cross_selective_scan --networks tiny --images 32x48 --batches 1 --stages 3 4 \
      --passes forward backward --seconds 0.01 --samples 3
    return
  fi
  for type in bfloat16 float32; do
    benchmark "maps_$type" cross_selective_scan "${settings[@]}" --dtype "$type" --images 224 --batches 1 128
    benchmark "maps_${type}_detection" cross_selective_scan "${settings[@]}" --dtype "$type" \
      --images 800x1344 --batches 2
  done
}

# The pure-torch forms beside them, on one picture.
stage_peers() {
  local sizes=(--networks tiny --images 224 --batches 1)
  on_gpu || sizes=(--networks tiny --images 32 --batches 1 --stages 4 --samples 3 --contenders reference chunks)
  benchmark peers_float32 selective_scan "${sizes[@]}" --seconds 1
}

stage_network() {
  local precision
  if ! on_gpu; then
    benchmark network_fp32 network --sizes tiny --images 64 --batches 1 --train-batches 2 --seconds 0.01 --samples 3 \
      --families SparX-Mamba ConvNeXt --scan-backend reference native
    return
  fi
  for precision in bf16 tf32; do
    benchmark "network_$precision" network --sizes tiny --batches 1 128 --train-batches 128 --seconds 2 \
      --precision "$precision" --scan-backend native triton mamba-ssm
  done
}

# Minutes for the compilation alone, so that there is a stage for each precision.
compiled() {
  if ! on_gpu; then
    benchmark "compiled_$1" network --sizes tiny --images 64 --modes inference --batches 1 --seconds 0.01 --samples 3 \
      --families ConvNeXt --compile
    return
  fi
  benchmark "compiled_$1" network --sizes tiny --batches 128 --train-batches 128 --seconds 2 --precision "$1" \
    --scan-backend native --compile
}
stage_compiled-bf16() { compiled bf16; }
stage_compiled-tf32() { compiled tf32; }

for stage in "$@"; do
  case " ${STAGES[*]} " in
    *" $stage "*) ;;
    *)
      echo "error: expected stages of: ${STAGES[*]}; got '$stage'" >&2
      exit 2
      ;;
  esac
done
if on_gpu && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "error: torch of $PYTHON sees no GPU; DEVICE=cpu tries the steps on a CPU" >&2
  exit 2
fi
[ $# -gt 0 ] || set -- "${STAGES[@]}"
if [[ " $* " == *' tests '* ]] && ! has pytest; then
  echo 'error: the stage tests needs pytest; install it, or name the other stages' >&2
  exit 2
fi
mkdir -p "$OUT"
for stage in "$@"; do
  "stage_$stage"
done
if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed: %s; logs in %s\n' "${failed[*]}" "$OUT" >&2
  exit 1
fi
printf '\nall done; results in %s\n' "$OUT"

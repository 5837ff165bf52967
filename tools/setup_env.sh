#!/usr/bin/env bash
# Makes .venv with the tested set (constraints.txt) and this package in editable mode; does nothing
# if that is done already. `make` calls it first.
#
#   PYTHON                interpreter, 3.10 to 3.12 (default: the first suitable one found)
#   VENV                  folder of the environment (default: .venv)
#   MMSPARX_WHEEL_CACHE   folder that keeps the compiled mmcv (default: ~/.cache/mmsparx)
#   FORCE_CUDA=1          compile the CUDA kernels of mmcv and this package; needs the CUDA toolkit of torch's version
#   MMSPARX_WITH_OPS=0    leave out this package's compiled operators (default: 1, they have to compile)
#   MAX_JOBS              number of compilers that run at once
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
CACHE=${MMSPARX_WHEEL_CACHE:-${XDG_CACHE_HOME:-${HOME:-$PWD}/.cache}/mmsparx}
STAMP=$VENV/.mmsparx-setup
MMCV=$(grep '^mmcv==' constraints.txt)
IN_RANGE='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'

say() { printf '\n==> %s\n' "$*"; }
fail() { printf '\nerror: %s\n' "$*" >&2; exit 1; }
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo missing; }
pip_install() { "$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt "$@"; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3 python}; do
    if "$candidate" -c "$IN_RANGE" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  [ -z "${PYTHON:-}" ] || fail "expected Python 3.10, 3.11 or 3.12, but PYTHON=$PYTHON is $(version_of "$PYTHON")."
  fail "expected Python 3.10, 3.11 or 3.12, found none (python3 is $(version_of python3))." \
    "Install one, or name it: make setup PYTHON=/path/to/python3.11"
}

# mmcv is compiled. Report missing tools before the long download, not after it.
check_compiler() {
  local compiler include
  compiler=${CXX:-$(command -v c++ || command -v g++ || command -v clang++)} ||
    fail "expected a C++ compiler, found none. Install one (Debian, Ubuntu: apt-get install g++), or set CXX."
  echo '#include <optional>' | $compiler -std=c++17 -fsyntax-only -x c++ - 2>/dev/null ||
    fail "expected a C++17 compiler, but '$compiler' compiles no line of it. Install g++ 9 or later, or set CXX."
  include=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [ -f "$include/Python.h" ] ||
    fail "expected Python.h in $include, found none. Install it (Debian, Ubuntu: apt-get install python3-dev)."
}

make_venv() {
  local python
  if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    "$VENV/bin/python" -c "$IN_RANGE" ||
      fail "expected Python 3.10 to 3.12 in $VENV, got $(version_of "$VENV/bin/python"). Remove it: make distclean"
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$VENV/bin/python")" ] ||
      fail "$VENV has Python $(version_of "$VENV/bin/python"), but PYTHON=$PYTHON is $(version_of "$PYTHON")." \
        "Remove it (make distclean), or leave PYTHON unset."
    return
  fi
  python=$(find_python)
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "expected the module venv in $python, found none. Install it (Debian, Ubuntu: apt-get install python3-venv)."
  check_compiler "$python"
  say "making $VENV with Python $(version_of "$python") ($python)"
  "$python" -m venv "$VENV"
}

mmcv_works() { "$VENV/bin/python" -c 'import mmcv.ops' >/dev/null 2>&1; }

# Everything that a compiled mmcv depends on makes up the name of its folder in the cache.
mmcv_key() {
  "$VENV/bin/python" - "$MMCV" "${FORCE_CUDA:-0}" <<'PY'
import platform
import sys

import torch

mmcv, cuda = sys.argv[1:]
kind = 'cuda' if cuda == '1' else 'cpu'
python = f'py{sys.version_info.major}.{sys.version_info.minor}'
print(f'{mmcv.replace("==", "-")}-{kind}-torch-{torch.__version__}-{python}-{sys.platform}-{platform.machine()}')
PY
}

build_mmcv() { # into the folder $1
  local folder=$1 log=$1.log part=$1.part.$$ start=$SECONDS pid
  # With -g0 -w it compiles several times faster than with debug information.
  local switches=(MMCV_WITH_OPS=1 "CFLAGS=-g0 -w ${CFLAGS:-}")
  # mmcv compiles CUDA operators wherever it sees a GPU, with or without a toolkit: hide it.
  [ "${FORCE_CUDA:-0}" = 1 ] || switches+=(CUDA_VISIBLE_DEVICES=)
  mkdir "$part"
  say "compiling $MMCV, once for this torch and Python: some 6 minutes on 2 cores (log: $log)"
  # pip's cache is not used: it does not know which torch a wheel was compiled against.
  env "${switches[@]}" "$VENV/bin/python" -m pip wheel -v --disable-pip-version-check --no-cache-dir --no-deps \
    --no-build-isolation --no-binary mmcv -c constraints.txt -w "$part" "$MMCV" >"$log" 2>&1 &
  pid=$!
  trap 'kill $pid 2>/dev/null; rm -rf "$part"' EXIT
  while kill -0 $pid 2>/dev/null; do
    sleep 1
    (((SECONDS - start) % 20)) ||
      printf '    %4d s %s\n' $((SECONDS - start)) "$(grep -o '\[[0-9]*/[0-9]*\]' "$log" | tail -n 1)"
  done
  if ! wait $pid; then
    tail -n 30 "$log" >&2
    fail "$MMCV did not compile: see the lines above, and all of them in $log. Where memory was short: MAX_JOBS=1"
  fi
  trap - EXIT
  rm -rf "$folder"
  mv "$part" "$folder"
}

install_mmcv() {
  local key folder
  key=$(mmcv_key)
  [ "$(cat "$VENV/.mmsparx-mmcv" 2>/dev/null)" != "$key" ] || ! mmcv_works || return 0
  folder=$CACHE/$key
  mkdir -p "$CACHE"
  if [ -e "$folder" ]; then
    say "taking $MMCV from $folder"
  else
    build_mmcv "$folder"
  fi
  pip_install --no-deps --force-reinstall "$folder"/mmcv-*.whl
  pip_install "$MMCV" # what it requires
  mmcv_works ||
    fail "$MMCV of $folder cannot be imported: $("$VENV/bin/python" -c 'import mmcv.ops' 2>&1 | tail -n 1)" \
      "Remove that folder, and run this again to compile it again."
  echo "$key" >"$VENV/.mmsparx-mmcv"
}

make_venv
export MMSPARX_WITH_OPS=${MMSPARX_WITH_OPS:-1}
wanted=$({
  echo "$PWD" "$MMSPARX_WITH_OPS"
  cat constraints.txt pyproject.toml setup.py tools/setup_env.sh
  find csrc -type f | LC_ALL=C sort | xargs cksum
} | cksum)
[ "$(cat "$STAMP" 2>/dev/null)" != "$wanted" ] || exit 0

rm -f "$STAMP"
say 'installing torch (a download of some 2 GB)'
pip_install torch torchvision setuptools wheel ninja psutil
install_mmcv
say 'installing mmdetection, mmsegmentation, mmpretrain and this package'
pip_install --no-build-isolation -e '.[det,seg,cls,analysis,export,hub,demo,docs,dev]'
say 'checking'
"$VENV/bin/python" -m pip check
echo "$wanted" >"$STAMP"
say "ready in $SECONDS s. Next: make demo, make test, or source $VENV/bin/activate"

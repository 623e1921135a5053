# bash scripts/test_versions.sh [quick]
#
# The tests on every Python from 3.11 on that this machine has, each with the newest packages that it
# can have: JAX 0.10 on 3.11, the newest JAX on 3.12 and later. Each gets a .venv-VERSION of its own,
# without torch: what asks that oracle is skipped and says so (`make test` has it, on 3.11). `quick`,
# as .ci/run has it: only the newest Python, and only what JAX decides most: the decoder, its weights,
# shardings, the sampler, the training step.
set -euo pipefail
cd "$(dirname "$0")/.."
everything=(tests)
quick=(tests/models tests/weights tests/sharding tests/sampling tests/training/test_step.py
  tests/training/test_losses.py tests/training/test_mesh.py)
packages=(pytest pytest-xdist hypothesis beartype safetensors click)

# a Python of that version that runs: pyenv's shims may be there without one
interpreter() {
  local python
  for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$python" -c '' 2>/dev/null; then echo "$python" && return; fi
  done
}

test_with() { # a version, its interpreter, tests
  local bin=.venv-$1/bin
  { [[ -x $bin/python ]] || "$2" -m venv ".venv-$1"; } &&
    "$bin/pip" --disable-pip-version-check install --quiet -e . "${packages[@]}" &&
    "$bin/python" -c 'import jax, sys; print("Python", sys.version.split()[0], "JAX", jax.__version__)' &&
    "$bin/python" -m pytest -q -n 2 --dist loadfile -m "not hosts and not hub" "${@:3}"
}

failed=()
for version in 3.14 3.13 3.12 3.11; do
  python=$(interpreter "$version")
  if [[ -z $python ]]; then
    echo "no Python $version on this machine"
  elif [[ ${1:-} != quick ]]; then
    test_with "$version" "$python" "${everything[@]}" || failed+=("$version")
  elif [[ $version != 3.11 ]]; then
    test_with "$version" "$python" "${quick[@]}" && exit
    exit 1
  fi
done
if [[ ${1:-} = quick ]]; then echo "no Python above 3.11: the newest JAX is not tested here"; fi
if ((${#failed[@]})); then echo "failed: ${failed[*]}" && exit 1; fi

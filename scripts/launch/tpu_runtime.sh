# . scripts/launch/tpu_runtime.sh; tpu_runtime v5litepod-16; tpu_flags v5litepod-16
#
# The runtime version of each kind of Cloud TPU, the flags of its compiler, and a Python on it that
# is new enough, for the scripts that launch on TPUs.
tpu_runtime() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo "$1: give its runtime version in scripts/launch/tpu_runtime.sh" >&2; return 2 ;;
  esac
}

# Value of LIBTPU_INIT_ARGS for a kind of TPU, or a mesh of it (v6e-8): the preset of its file in
# configs/chips, then what this shell's LIBTPU_INIT_ARGS has. XLA_PRESET=off leaves the preset out.
tpu_flags() {
  local chip flags='' file
  chip=$(basename "$1") && chip=${chip%%-*}
  if [[ $chip = v5litepod ]]; then chip=v5e; fi
  file=$(dirname "${BASH_SOURCE[0]}")/../../configs/chips/$chip.yaml
  if [[ -f $file && ${XLA_PRESET:-on} != off ]]; then
    flags=$(sed -n 's/^  - \(--xla[^ ]*\).*/\1/p' "$file" | tr '\n' ' ')
  fi
  echo "$flags${LIBTPU_INIT_ARGS:-}"
}

# ~/venv on a worker. The images bring Python 3.10 and the package needs 3.11: uv fetches 3.12.
# shellcheck disable=SC2034
make_venv='if [ -x ~/venv/bin/python ]; then :
elif python3 -c "import sys; sys.exit(sys.version_info < (3, 11))"; then python3 -m venv ~/venv
else curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv --quiet --seed --python 3.12 ~/venv
fi'

# . scripts/launch/tpu_runtime.sh; tpu_runtime v5litepod-16
#
# The runtime version of each kind of Cloud TPU, and a Python on it that is new enough, for
# cloud_tpu.sh and queued_spot.sh.
tpu_runtime() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo "$1: give its runtime version in scripts/launch/tpu_runtime.sh" >&2; return 2 ;;
  esac
}

# ~/venv on a worker. The images bring Python 3.10 and the package needs 3.11: uv fetches 3.12.
# shellcheck disable=SC2034
make_venv='if [ -x ~/venv/bin/python ]; then :
elif python3 -c "import sys; sys.exit(sys.version_info < (3, 11))"; then python3 -m venv ~/venv
else curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv --quiet --seed --python 3.12 ~/venv
fi'

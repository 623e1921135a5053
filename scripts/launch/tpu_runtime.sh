# . scripts/launch/tpu_runtime.sh; tpu_runtime v5litepod-16
#
# The runtime version of each kind of Cloud TPU, for cloud_tpu.sh and queued_spot.sh.
tpu_runtime() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo "$1: give its runtime version in scripts/launch/tpu_runtime.sh" >&2; return 2 ;;
  esac
}

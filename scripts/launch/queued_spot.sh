# bash scripts/launch/queued_spot.sh NAME ZONE v6e-64 gs://BUCKET/RUN RECIPE mesh=v6e-64
#
# As cloud_tpu.sh, on spot capacity: queues for it, runs, queues again when it is taken away, until
# the run is done; then the TPU is deleted. What is lost is what was not in the bucket: at most 30 s
# of rows and the steps since the last checkpoint. What does not pass by itself ends it at once: a
# wrong setting or input, something to install, a licence to accept. Stop it with Ctrl-C; the TPU stays until
#     gcloud compute tpus queued-resources delete NAME --zone=ZONE --force
# SLICES=2 queues for two slices of that type, which run as one, with a mesh file of two slices:
#     SLICES=2 bash scripts/launch/queued_spot.sh NAME ZONE v5litepod-256 ... mesh=v5e-256x2
set -euo pipefail
name=$1 zone=$2 type=$3
here=$(dirname "$0")
starts=${STARTS:-50} pause=${PAUSE:-30} # runs begun, or looks in vain, before giving up; seconds between looks
# shellcheck source=scripts/launch/tpu_runtime.sh
. "$here/tpu_runtime.sh"
runtime=$(tpu_runtime "$type")
delete="gcloud compute tpus queued-resources delete $name --zone=$zone --force"
output=$(mktemp) before=nothing
nodes=(--node-id="$name")
if ((${SLICES:-1} > 1)); then nodes=(--node-count="$SLICES" --node-prefix="$name"); fi
queue() { gcloud compute tpus queued-resources "$1" "$name" "${@:2}" --zone="$zone"; }

# The state, ABSENT where there is none of that name, UNKNOWN where Google cannot be asked.
look() {
  state=UNKNOWN
  if known=$(queue describe --format='value(state.state)' 2>"$output"); then state=$known
  elif grep -q NOT_FOUND "$output"; then state=ABSENT
  else cat "$output" >&2; fi
}

while ((starts > 0)); do
  look
  echo "$(date +%H:%M:%S) $name: $state"
  case $state in
    ABSENT)
      queue create "${nodes[@]}" --accelerator-type="$type" --runtime-version="$runtime" --spot
      ;;
    UNKNOWN)
      # at first it is gcloud itself or its login; later the network, which comes back
      if [[ $before = nothing ]]; then exit 4; fi
      starts=$((starts - 1))
      ;;
    ACTIVE)
      starts=$((starts - 1)) status=0
      CREATE=no bash "$here/cloud_tpu.sh" "$@" 2>&1 | tee "$output" || status=${PIPESTATUS[0]}
      again=yes
      case $status in
        0)
          queue delete --force --quiet || echo "done; $name costs money until: $delete" >&2
          exit 0
          ;;
        2 | 3) again=no ;; # usage or input
        # something to install or accept, as thinksafe and doctor say it; else storage or network
        4) if grep -qE '(error|process [0-9]+ \([^)]*\)): missing: ' "$output"; then again=no; fi ;;
      esac
      if [[ $again = no ]]; then
        echo "$name costs money until: $delete" >&2
        exit "$status"
      fi
      ;;
    SUSPENDED | FAILED) queue delete --force --quiet || true ;; # looked at again
  esac
  before=$state
  sleep "$pause"
done
echo "$name: given up after ${STARTS:-50} starts; it costs money until: $delete" >&2
exit 75

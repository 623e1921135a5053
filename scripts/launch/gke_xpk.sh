# bash scripts/launch/gke_xpk.sh CLUSTER ZONE v5litepod-16 IMAGE gs://BUCKET/RUN RECIPE mesh=v5e-16
#
# A workload on a GKE cluster that XPK made (pip install xpk; xpk cluster create --help). IMAGE is
# built from scripts/launch/tpu.Dockerfile and pushed. SLICES=4 takes four slices (mesh=v6e-256x4). A worker that is
# preempted, killed or cut off ends the others within a minute, and all start again from the bucket.
# ENV_FILE names a file with lines as HF_TOKEN=..., for gated models. DRY_RUN=1 only prints. The
# compiler's flags are those of configs/chips, as in scripts/launch/cloud_tpu.sh.
set -euo pipefail
cluster=$1 zone=$2 type=$3 image=$4 run_dir=$5 recipe=$6
changes=("${@:7}")
workload=${WORKLOAD:-thinksafe-$(date +%m%d-%H%M)}
# shellcheck source=scripts/launch/tpu_runtime.sh
. "$(dirname "$0")/tpu_runtime.sh"
flags=$(tpu_flags "$type")
secret=$(openssl rand -hex 32) # only who knows it takes part in this run

xpk workload create \
  --workload="$workload" --cluster="$cluster" --zone="$zone" \
  --tpu-type="$type" --num-slices="${SLICES:-1}" --docker-image="$image" \
  --max-restarts=50 --restart-on-exit-codes=75 --termination-grace-period-seconds=60 \
  ${ENV_FILE:+--env-file="$ENV_FILE"} ${DRY_RUN:+--dry-run} \
  --command="export THINKSAFE_SECRET=$secret LIBTPU_INIT_ARGS=${flags@Q} && thinksafe doctor --pod --config ${recipe@Q} ${run_dir@Q} ${changes[*]@Q} && \
exec thinksafe run --config ${recipe@Q} --run-dir ${run_dir@Q} ${changes[*]@Q}"

# bash scripts/launch/cloud_tpu.sh NAME ZONE v5litepod-16 gs://BUCKET/RUN RECIPE mesh=v5e-16
#
# A run on all workers of a Cloud TPU: creates the TPU where there is none of that name, installs
# this commit on every worker, looks at all hosts, runs. Give the same command again to resume.
# Arguments after RECIPE change it; the mesh (configs/mesh or a file) must take all chips. What git
# has at HEAD travels: uncommitted edits and ignored files, as prompts in data/, do not. A Hugging
# Face token on this machine (`hf auth login`) is copied to the workers, for gated models. It ends
# with the exit code of thinksafe, or 255 where a worker was lost. The TPU costs money until
#     gcloud compute tpus tpu-vm delete NAME --zone=ZONE
# SLICES=2 runs on all slices of the queued resource NAME (docs/many_hosts.md), with mesh=v5e-256x2;
# scripts/launch/queued_spot.sh makes it. The compiler's flags are those of configs/chips, and then
# this shell's LIBTPU_INIT_ARGS; XLA_PRESET=off leaves the first out.
set -euo pipefail
name=$1 zone=$2 type=$3 run_dir=$4 recipe=$5
changes=("${@:6}")

# shellcheck source=scripts/launch/tpu_runtime.sh
. "$(dirname "$0")/tpu_runtime.sh"
kind=tpu-vm workers=(--worker=all)
if ((${SLICES:-1} > 1)); then kind=queued-resources workers+=(--node=all); fi # a node is a slice
tpu() { gcloud compute tpus "$kind" "$1" "${@:2}" --zone="$zone"; }
on_all() { tpu ssh "$name" "${workers[@]}" --command="$1"; }

if ! tpu describe "$name" >/dev/null 2>&1; then
  if [[ ${CREATE:-yes} = no ]]; then # queued_spot.sh: what is gone is queued for again, on spot
    echo "$name cannot be seen" >&2
    exit 255
  fi
  if [[ $kind = queued-resources ]]; then
    echo "no queued resource $name: make it by scripts/launch/queued_spot.sh" >&2
    exit 2
  fi
  tpu create "$name" --accelerator-type="$type" --version="$(tpu_runtime "$type")"
fi

here=$(dirname "$0")/../..
if [[ -n $(git -C "$here" status --porcelain) ]]; then
  echo "uncommitted changes stay behind; the workers run HEAD" >&2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git -C "$here" archive --format=tar.gz --output="$scratch/thinksafe.tar.gz" HEAD
on_all "mkdir -p thinksafe .cache/huggingface"
tpu scp "$scratch/thinksafe.tar.gz" "$name:thinksafe.tar.gz" "${workers[@]}"
token=${HF_HOME:-$HOME/.cache/huggingface}/token
if [[ -f $token ]]; then tpu scp "$token" "$name:.cache/huggingface/token" "${workers[@]}"; fi
# only who knows it takes part in this run (docs/many_hosts.md)
(umask 077 && openssl rand -hex 32 >"$scratch/secret")
tpu scp "$scratch/secret" "$name:thinksafe.secret" "${workers[@]}"
on_all "tar -xzf thinksafe.tar.gz -C thinksafe && cd thinksafe &&
  { $make_venv; } && ~/venv/bin/pip install --quiet -e '.[tpu,gcs]'"

# every worker runs the same commands; they find each other
flags=$(tpu_flags "$type")
on_all "chmod 600 thinksafe.secret && export THINKSAFE_SECRET=\$(cat thinksafe.secret) &&
  export LIBTPU_INIT_ARGS=${flags@Q} &&
  . ~/venv/bin/activate && cd thinksafe &&
  thinksafe doctor --pod --config ${recipe@Q} ${run_dir@Q} ${changes[*]@Q} &&
  exec thinksafe run --config ${recipe@Q} --run-dir ${run_dir@Q} ${changes[*]@Q}"

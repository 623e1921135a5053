# bash scripts/launch/slurm.sh NODES /shared/runs/qwen3-8b configs/recipes/qwen3-8b.yaml mesh=h100-8
#
# One process per node with all its GPUs; Slurm tells them of each other. Started in the repository,
# on a file system that the nodes share, with thinksafe in .venv. Two minutes before its time limit
# the run is told to save; then, and when a node is lost, the job is queued again.
# Partition, account and time come from the environment: SBATCH_PARTITION, SBATCH_ACCOUNT,
# SBATCH_TIMELIMIT. Several nodes need a mesh file over all their GPUs (configs/mesh has h100-8, of
# one). DRY_RUN=1 only asks Slurm when it would start.
set -euo pipefail
nodes=$1 run_dir=$2 recipe=$3
changes=("${@:4}")

sbatch ${DRY_RUN:+--test-only} --job-name=thinksafe --nodes="$nodes" --ntasks-per-node=1 \
  --gpus-per-node="${GPUS:-8}" --exclusive --requeue --signal=TERM@120 --open-mode=append \
  --output=thinksafe-%j.log <<EOF
#!/bin/bash
. .venv/bin/activate
export THINKSAFE_SECRET=\$(openssl rand -hex 32) # only who knows it takes part in this run
srun thinksafe doctor --pod --config ${recipe@Q} ${run_dir@Q} ${changes[*]@Q} || exit
srun --kill-on-bad-exit=0 thinksafe run --config ${recipe@Q} --run-dir ${run_dir@Q} ${changes[*]@Q}
code=\$?
# 143: told to save; 75: a peer was lost; more: killed. The others (2, 3, 4) need a person.
if ((code >= 75)); then scontrol requeue "\$SLURM_JOB_ID"; fi
exit \$code
EOF

# bash scripts/launch/rehearse.sh [FOLDER]
#
# A pod, rehearsed on this machine before one is rented: the mini recipe over four processes of two
# devices each and a bucket, started as GKE, Cloud TPU and Slurm start it, with one process told to
# stop, one killed, and the last start on half as many hosts. It ends with a table of what was lost
# and exit code 0 only where that is nothing. Minutes on two cores; needs Linux and the extra `test`
# (pip install -e '.[test]'), whose server stands for the bucket. FOLDER keeps the logs.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
if [[ ! -x $python ]]; then python=python3; fi
exec "$python" -m scripts.launch.pod_rehearsal "$@"

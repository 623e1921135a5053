# docker build --file scripts/launch/tpu.Dockerfile --tag thinksafe:tpu .
#
# For Cloud TPU and GKE (scripts/launch/gke_xpk.sh); on a TPU VM by itself:
#     sudo docker run --rm --privileged --network=host thinksafe:tpu doctor
FROM python:3.12-slim
WORKDIR /thinksafe
COPY pyproject.toml setup.py README.md LICENSE ./
COPY thinksafe_jax thinksafe_jax
COPY configs configs
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[tpu,gcs,eval]'
# one copy of everything a host needs; GKE's disks are small, so mount a larger one there
ENV THINKSAFE_CACHE=/tmp/thinksafe JAX_COMPILATION_CACHE_DIR=/tmp/thinksafe/compiled
ENTRYPOINT ["thinksafe"]
CMD ["--help"]

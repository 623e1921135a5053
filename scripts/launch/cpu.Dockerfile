# docker build --file scripts/launch/cpu.Dockerfile --tag thinksafe:cpu .
#
# Plans, sweeps of shardings, reports, and the demo:
#     docker run -v "$PWD/runs:/thinksafe/runs" thinksafe:cpu run -c configs/recipes/mini.yaml
FROM python:3.12-slim
WORKDIR /thinksafe
COPY pyproject.toml setup.py README.md LICENSE ./
COPY thinksafe_jax thinksafe_jax
COPY configs configs
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[gcs,s3,eval]'
ENTRYPOINT ["thinksafe"]
CMD ["--help"]

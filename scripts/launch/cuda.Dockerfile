# docker build --file scripts/launch/cuda.Dockerfile --tag thinksafe:cuda .
#
# CUDA comes with JAX's wheels; the host needs the driver and the NVIDIA container toolkit:
#     docker run --rm --gpus=all --shm-size=8g thinksafe:cuda doctor
FROM python:3.12-slim
WORKDIR /thinksafe
COPY pyproject.toml setup.py README.md LICENSE ./
COPY thinksafe_jax thinksafe_jax
COPY configs configs
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[cuda,gcs,s3,eval]'
ENTRYPOINT ["thinksafe"]
CMD ["--help"]

# On a CPU:  docker build -t tnt-exp .
# On a GPU:  docker build --build-arg EXTRAS=cuda -t tnt-exp . && docker run --gpus all ...
FROM python:3.12-slim
ARG EXTRAS=postgresql
WORKDIR /app
COPY pyproject.toml requirements.lock README.md ./
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY tnt_exp tnt_exp
RUN python -m pip install --no-cache-dir --constraint requirements.lock ".[${EXTRAS}]" \
    && useradd --create-home --uid 1000 trainer \
    && mkdir /work && chown trainer /work
USER 1000
# Runs, mlflow.db and photos: docker run -v "$PWD:/work" ...
WORKDIR /work
ENTRYPOINT ["tnt-exp"]
CMD ["--help"]

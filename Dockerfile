# llmsup and its llama-server in one image. Build it on the kind of machine it is to run on: llama-server is compiled for
# the processor that builds it. `docker build -t llmsup .`; for all that belongs to it: compose.yaml.

# A tag may be given to another image; a digest may not: --build-arg PYTHON_IMAGE=python:3.12.11-slim-bookworm@sha256:...
# (config/docker/pin-images.sh asks the registry for it; compose.yaml takes it from .env).
ARG PYTHON_IMAGE=python:3.12.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential cmake ninja-build \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/llmsup
# What changes seldom comes first, so that a change of llmsup does not install everything again. The second file is a
# superset of the first; of it only Redis's client is wanted.
COPY requirements/runtime.txt requirements/dev.txt requirements/
RUN python -m venv .venv \
 && .venv/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt \
 && sed -n '/^redis==/,/[^\\]$/p' requirements/dev.txt > requirements/redis.txt \
 && .venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements/redis.txt
COPY pyproject.toml README.md LICENSE ./
COPY config/llmsup.yaml config/
COPY supervisor supervisor
RUN .venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
# The pinned source, checked by its hash. The cache outlives a change of llmsup; what is needed is copied out of it.
RUN --mount=type=cache,target=/var/cache/llmsup \
    LLMSUP_CACHE_DIR=/var/cache/llmsup .venv/bin/llmsup build \
 && mkdir -p /opt/llama/bin \
 && cp "$(dirname "$(LLMSUP_CACHE_DIR=/var/cache/llmsup .venv/bin/llmsup build --print-path)")"/* /opt/llama/bin/
COPY models models
RUN .venv/bin/python models/make_demo.py

FROM ${PYTHON_IMAGE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 llmsup \
 && useradd --uid 10001 --gid llmsup --no-create-home --home-dir /var/lib/llmsup --shell /usr/sbin/nologin llmsup \
 && install --directory --owner=llmsup --group=llmsup --mode=0700 /var/lib/llmsup
COPY --from=build /opt/llmsup/.venv /opt/llmsup/.venv
COPY --from=build /opt/llama /opt/llama
COPY --from=build /opt/llmsup/models/demo.gguf /models/demo.gguf
COPY config/docker/llmsup.yaml /etc/llmsup/llmsup.yaml
ENV PATH=/opt/llmsup/.venv/bin:$PATH \
    LLMSUP_CONFIG=/etc/llmsup/llmsup.yaml \
    LLMSUP__LLAMA_SERVER__BINARY=/opt/llama/bin/llama-server \
    XDG_STATE_HOME=/var/lib \
    LLMSUP_CACHE_DIR=/var/lib/llmsup/cache \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8005
# 503 while a model loads, so that nobody is sent here yet. The start may take as long as a large model's file.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=2 \
    CMD ["python", "-I", "-S", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8005/health', timeout=4)"]
# SIGTERM drains and ends llama-server. llmsup needs no init around it: it handles its signals itself, and collects what is
# left behind by others, as it does outside of containers.
STOPSIGNAL SIGTERM
ENTRYPOINT ["llmsup"]
CMD ["run"]

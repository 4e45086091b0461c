# syntax=docker/dockerfile:1
# Two images: the gateway (the default target) and, for trials, a small engine of llama.cpp (`--target engine`).
# Base images are named by tag. To fix one for good, build with --build-arg PYTHON=python:3.13-slim-bookworm@sha256:…
ARG PYTHON=python:3.13-slim-bookworm

# Every package comes with a hash from requirements/, uv itself too. What stands in the environment is bytecode already.
FROM ${PYTHON} AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_PROGRESS=1 \
    UV_CACHE_DIR=/var/cache/uv \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN --mount=type=bind,source=requirements,target=requirements \
    pip install --no-cache-dir --require-hashes -r requirements/image.txt
RUN --mount=type=bind,source=requirements,target=requirements \
    --mount=type=cache,target=/var/cache/uv \
    uv venv /opt/build \
 && uv pip sync --python /opt/build --require-hashes requirements/build.txt \
 && uv venv /opt/faregate \
 && uv pip sync --python /opt/faregate --require-hashes requirements/postgres.txt
COPY pyproject.toml README.md LICENSE ./
COPY policies policies
COPY gateway gateway
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/wheel \
 && uv pip install --python /opt/faregate --no-deps --no-index /tmp/wheel/*.whl

# The engine and its model, which has terms of its own: this target is built only where the profile `local` asks for it.
FROM build AS build-engine
RUN --mount=type=bind,source=requirements,target=requirements \
    --mount=type=cache,target=/var/cache/uv \
    uv venv /opt/engine \
 && uv pip sync --python /opt/engine --require-hashes requirements/local.txt \
 && uv pip install --python /opt/engine --no-deps --no-index /tmp/wheel/*.whl \
 && /opt/engine/bin/python -c "from gateway.demo.engine import model_file; from pathlib import Path; model_file(Path('/opt/model'))"

FROM ${PYTHON} AS engine
# These two are libraries of the distribution: a version pinned here would be gone from its archive with the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin faregate
COPY --from=build-engine /opt/engine /opt/engine
COPY --from=build-engine /opt/model /opt/model
ENV PATH=/opt/engine/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=2s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8000/health', timeout=3)"]
ENTRYPOINT ["python", "-m", "gateway.demo.engine"]
CMD ["--bind", "0.0.0.0", "--port", "8000", "--models", "/opt/model"]

FROM ${PYTHON} AS gateway
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Faregate" \
      org.opencontainers.image.description="An OpenAI-compatible gateway for DeepSeek and its hosts that prices every request to the nano" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The data folder belongs to the gateway's user; a new named volume mounted there takes that over.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin faregate \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/faregate \
 && install -d /etc/faregate/policies/teams
COPY --from=build /opt/faregate /opt/faregate
# Beside the code, where files can be laid over it: teams, routes, prices.
COPY policies /etc/faregate/policies
ENV PATH=/opt/faregate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FAREGATE_HOST=0.0.0.0 \
    FAREGATE_ADMIN_HOST=0.0.0.0 \
    FAREGATE_DATA=/var/lib/faregate \
    FAREGATE_POLICIES=/etc/faregate/policies
WORKDIR /var/lib/faregate
USER 10001:10001
VOLUME /var/lib/faregate
# 8080: chat completions. 8081: metrics and health for everyone who reaches it, the admin API behind its token; never publish it.
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=2s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ.get('FAREGATE_ADMIN_PORT') or 8081}/readyz\", timeout=3)"]
ENTRYPOINT ["faregate"]
CMD ["serve"]

# CTSM's service. The model directory is mounted at /model, read-only:
#
#   docker build -t ctsm .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#       --memory 4g --stop-timeout 40 -p 127.0.0.1:8000:8000 -v "$PWD/runs/ctsm/best:/model:ro" ctsm
#
# Where pip is to find packages can be set with the build arguments PIP_INDEX_URL and PIP_EXTRA_INDEX_URL: an index
# with CPU builds of PyTorch makes the image several times smaller.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
# Some packages hold files that this Python cannot compile (templates, tests for other versions); nobody imports them.
RUN python -m venv /opt/ctsm \
    && /opt/ctsm/bin/pip install --no-cache-dir --no-compile '.[serve]' \
    && (/opt/ctsm/bin/python -m compileall -q /opt/ctsm || true)

FROM ${BASE}
COPY --from=build /opt/ctsm /opt/ctsm
RUN groupadd --system --gid 10001 ctsm && useradd --system --uid 10001 --gid ctsm --no-create-home ctsm
USER 10001:10001
WORKDIR /model
# Nothing is written: neither byte code nor caches.
ENV PATH=/opt/ctsm/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HOME=/tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["ctsm", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]

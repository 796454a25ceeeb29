# The service: docker build -t ortoscope . (for CUDA: --build-arg EXTRA=server-gpu)
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRA=server
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY clients clients
COPY service service
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/ortoscope \
    && /opt/ortoscope/bin/python -m pip install --no-cache-dir "$(ls /wheels/ortoscope-*.whl)[${EXTRA}]"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/ortoscope /opt/ortoscope

# The root file system may be read-only: everything that is written lives in /store, /tmp and the cache of compiled
# kernels, which numba must be able to write when the processor differs from the one the image was built on.
ENV PATH=/opt/ortoscope/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    NUMBA_CACHE_DIR=/var/cache/ortoscope

RUN groupadd --system --gid 10001 ortoscope \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ortoscope \
    && install --directory --owner 10001 --group 10001 /models /datasets /store /var/cache/ortoscope
USER 10001:10001
RUN ["python", "-c", "from ortoscope_service.analysis.atlas import compilation; from ortoscope_service.analysis.dissection import kernels; compilation.compile_all(); kernels.compile_all()"]

VOLUME ["/models", "/datasets", "/store", "/var/cache/ortoscope"]
EXPOSE 50051

# Succeeds if the server says SERVING (grpc.health.v1) to a call on its port.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-c", "import grpc, sys; from grpc_health.v1 import health_pb2 as messages, health_pb2_grpc as stubs; channel = grpc.insecure_channel(sys.argv[1]); reply = stubs.HealthStub(channel).Check(messages.HealthCheckRequest(), timeout=8); sys.exit(reply.status != messages.HealthCheckResponse.SERVING)", "127.0.0.1:50051"]

# Without TLS the port belongs behind a proxy or on a private network; docker-compose.yml binds it to this host alone.
ENTRYPOINT ["ortoscope-server"]
CMD ["serve", "--models", "/models", "--datasets", "/datasets", "--store", "/store", "--listen", "0.0.0.0:50051", "--insecure"]

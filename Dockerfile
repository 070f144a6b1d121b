# The runtime of mien: predicts and serves a bundle on the CPU. No torch, no compiler, no rights.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/mien && /opt/mien/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/mien /opt/mien
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin mien
# As a number, by which an orchestrator sees that it isn't root.
USER 10001:10001
# ONNX Runtime from 1.29 on sends reports of its use to its maker unless this says no.
ENV PATH=/opt/mien/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
EXPOSE 8000
# That it lives: /ready says no while the queue is full, and nobody should end a service because it is busy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Uploads lie in /tmp: give it a size with --tmpfs. The token comes as MIEN_SERVE_TOKEN; without one it doesn't start.
ENTRYPOINT ["mien", "serve"]
CMD ["/bundle", "--host", "0.0.0.0"]

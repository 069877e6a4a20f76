# Serves a bundle that is mounted at /bundle, read-only, as a user without rights; see docs/serving.md.
#   docker build -t twotower .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:8080:8080 -e TWOTOWER_KEYS -v "$PWD/runs/first:/bundle:ro" twotower
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
# The extra `serve` brings no torch: towers run as ONNX.
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[serve]" && rm -r /wheels && useradd --system --no-create-home --uid 10001 twotower
USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('localhost', 8080, timeout=2); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["twotower", "serve", "/bundle", "--host", "0.0.0.0", "--watch"]

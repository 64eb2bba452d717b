# tunelift on a CPU, without root: docker build --build-arg TORCH_INDEX=... --tag tunelift .
# docker run --rm --volume "$PWD:/work" tunelift run --model Qwen/Qwen3-0.6B --data tickets.csv ...
# EXTRAS names what else is installed (docs/reference: data, text, gguf, serve, quantized, ...).

FROM python:3.11-slim AS built
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
ARG EXTRAS=data,text,gguf,serve
# The index of torch's builds for CPUs (pytorch.org, "Get started", names it); without it pip brings CUDA's gigabytes.
ARG TORCH_INDEX
RUN python -m venv /opt/tunelift \
 && /opt/tunelift/bin/pip install --no-cache-dir --constraint constraints.txt \
      ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && /opt/tunelift/bin/pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]" \
 && find /opt/tunelift -name __pycache__ -prune -exec rm -rf {} +

FROM python:3.11-slim
# gcc compiles the kernels once, for the processor that the container runs on; without it all runs, more slowly.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 tunelift \
 && install --directory --owner tunelift /work
COPY --from=built /opt/tunelift /opt/tunelift
ENV PATH=/opt/tunelift/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
ENTRYPOINT ["tunelift"]
CMD ["--help"]

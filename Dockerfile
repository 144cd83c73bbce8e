# The image of compose.yaml. For smaller wheels without CUDA: --build-arg PIP_OPTIONS="--extra-index-url …" as pytorch.org says.
FROM python:3.12-slim

ARG PIP_OPTIONS=""
WORKDIR /everlearn
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir ${PIP_OPTIONS} torch torchvision \
 && pip install --no-cache-dir ${PIP_OPTIONS} ".[serve,postgres,store]" \
 && useradd --uid 1000 --create-home everlearn \
 && install -d -o everlearn -g everlearn /run/everlearn /store

USER everlearn
WORKDIR /home/everlearn
VOLUME ["/run/everlearn", "/store"]
EXPOSE 8420
ENTRYPOINT ["everlearn"]
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
  "import urllib.request as u; u.urlopen('http://127.0.0.1:8420/api/v1/health', timeout=5)"]

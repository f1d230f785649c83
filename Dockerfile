# One image for every role; docker-compose.yml says which command a container runs.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/reprieve

COPY requirements-runtime.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-runtime.lock

COPY . .
RUN pip install --no-cache-dir --no-deps .

# The data folder holds what detached runs write; nothing here needs to be root.
RUN useradd --create-home --uid 10001 reprieve && install -d -o reprieve /data
USER reprieve
WORKDIR /data
ENV REPRIEVE_DATA_DIR=/data
VOLUME /data
STOPSIGNAL SIGTERM

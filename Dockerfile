# One image for every role; the command says which one a container is: `reprieve start ROLE`. docs/image.md
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
# The time of every file: the same in every release, so that a layer whose content is the same is the same layer.
ENV SOURCE_DATE_EPOCH=1580601600
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
# What is there before the tools are: that is in the final image too.
RUN dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' > packages \
    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends binutils tini \
    && dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' tini >> packages
COPY requirements-image.lock ./
RUN python3 -m venv tools && tools/bin/pip install --quiet --require-hashes -r requirements-image.lock
COPY requirements-runtime.lock ./
RUN pip install --quiet --require-hashes --no-deps --no-compile --ignore-installed --root /out/libraries -r requirements-runtime.lock
COPY . source
RUN cd source && ../tools/bin/hatchling build -t wheel -d ../wheels > /dev/null \
    && pip install --quiet --no-index --find-links ../wheels --no-deps --no-compile --root /out/reprieve reprieve
RUN python3 source/deploy/image/assemble.py /out packages tools/bin/cyclonedx-py

# A layer for each of what changes at its own pace.
FROM ${BASE}
COPY --from=build /out/system/ /
COPY --from=build /out/libraries/ /
COPY --from=build /out/compiled/ /
COPY --from=build /out/reprieve/ /
COPY --from=build --chown=10001:0 /out/owned/ /
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/home/reprieve \
    REPRIEVE_DATA_DIR=/data REPRIEVE_PULSE_FILE=/tmp/pulse
ARG BASE
# `make image` adds version, revision and created.
LABEL org.opencontainers.image.title=Reprieve \
    org.opencontainers.image.description="Supervises fleets of long jobs on Celery" \
    org.opencontainers.image.licenses=Apache-2.0 \
    org.opencontainers.image.base.name=${BASE}
# By number, so that Kubernetes can see that it is not root. Whoever else it is run as, needs the group 0 for its data.
USER 10001
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
# Collects the orphans of all that a run starts, be it PID 1 or below an init of the engine's.
ENTRYPOINT ["/usr/bin/tini", "-s", "--"]
CMD ["reprieve", "--help"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["reprieve", "healthcheck"]

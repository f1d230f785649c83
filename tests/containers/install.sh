#!/bin/sh
# Installs what `make test-containers` needs and this machine lacks, from Debian: an engine, Compose with BuildKit, and
# debootstrap. Compose is taken from a later release where this one has only the one before it, which is no plugin; that
# goes into the folder that is named, and not into the system.
set -eu
plugins=$1/cli-plugins
lacking=""
for pair in dockerd:docker.io iptables:iptables debootstrap:debootstrap; do
    command -v "${pair%%:*}" > /dev/null || lacking="$lacking ${pair##*:}"
done
fetch() {
    # From the release that is named, beside the system's own lists.
    apt=$(mktemp -d)
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -1)
    echo "deb $mirror $1 main" > "$apt/parts/later.list"
    options="-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$apt/parts -o Dir::State::lists=$apt/lists
        -o Dir::Cache=$apt/cache -o APT::Sandbox::User=root"
    apt-get -qq $options update
    (cd "$apt" && apt-get -qq $options download docker-compose docker-buildx)
    for package in "$apt"/*.deb; do dpkg -x "$package" "$apt/out"; done
    mkdir -p "$plugins"
    cp "$apt"/out/usr/libexec/docker/cli-plugins/* "$plugins"
    rm -rf "$apt"
}
if [ -n "$lacking" ]; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $lacking
fi
docker compose version > /dev/null 2>&1 || test -x "$plugins/docker-compose" || fetch forky

#!/bin/sh
# As the official image's: a redis-server that is asked for as root runs as redis.
set -eu
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then set -- redis-server "$@"; fi
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis {} +
    exec gosu redis "$0" "$@"
fi
exec "$@"

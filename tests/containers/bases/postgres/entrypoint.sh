#!/bin/bash
# As the official image's: root becomes postgres; an empty folder gets a cluster, made by a first server that answers on
# the socket alone; what lies in /docker-entrypoint-initdb.d is run by it; POSTGRES_USER, _DB, _PASSWORD, and …_FILE.
set -eu
value() {
    local file="${1}_FILE"
    if [ -n "${!file:-}" ]; then cat "${!file}"; else printf %s "${!1:-}"; fi
}
[ "${1:-postgres}" = postgres ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres "$PGDATA" /run/postgresql
    chmod 700 "$PGDATA"
    exec gosu postgres "$BASH_SOURCE" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    user=$(value POSTGRES_USER); user=${user:-postgres}
    database=$(value POSTGRES_DB); database=${database:-$user}
    password=$(value POSTGRES_PASSWORD)
    [ -n "$password" ] || { echo "POSTGRES_PASSWORD is not set." >&2; exit 1; }
    initdb --username="$user" --pwfile=<(printf '%s\n' "$password") --auth-local=trust --auth-host=scram-sha-256 > /dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -w -o "-c listen_addresses=''" start > /dev/null
    [ "$database" = postgres ] || psql -q --username="$user" --dbname=postgres -c "CREATE DATABASE \"$database\""
    for file in /docker-entrypoint-initdb.d/*; do
        case "$file" in
            *.sh) bash "$file" ;;
            *.sql) psql -q --username="$user" --dbname="$database" -f "$file" ;;
        esac
    done
    pg_ctl -m fast -w stop > /dev/null
fi
exec "$@" -c listen_addresses='*'

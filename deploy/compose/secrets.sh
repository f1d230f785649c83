#!/bin/sh
# Makes the secrets of docker-compose.yml, each a file: those that are not there yet, and never one that is.
# What an earlier release had in .env is taken from there, as Compose reads it. Repeating it does no harm.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."   # Where the script is, and not where a link to it is.
if [ $# -gt 0 ]; then
    echo "usage: deploy/compose/secrets.sh, without arguments; SECRETS names another folder than ./secrets." >&2
    exit 2
fi

# What Compose would put into the file: the environment and .env. Without that, nobody knows where the secrets belong, and
# which of them somebody's data depends on.
if ! known=$(docker compose config --environment); then
    echo "Nothing was made: this needs Docker Compose 2.28 or later, and files that it can read." >&2
    exit 1
fi
setting() { printf '%s\n' "$known" | sed -n "s/^$1=//p" | head -n 1; }

folder=$(setting SECRETS)
folder=${folder:-./secrets}
case "$folder" in "~/"*) folder=$HOME/${folder#"~/"} ;; esac   # As Compose reads it.
password() { head -c 24 /dev/urandom | base64; }
token() { printf 'admin=%s' "$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')"; }
signature() { printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64)"; }

# Only their owner may enter the folder. The files in it may be read by all, since each container has a user of its own.
(umask 077 && mkdir -p "$folder")
chmod 700 "$folder"

# One that somebody's data depends on cannot be made anew.
in_use() {
    project=$(docker compose config | sed -n 's/^name: "\{0,1\}\([^"]*\).*/\1/p')   # Quoted where it is a number.
    docker volume inspect "${project}_$1" > /dev/null 2>&1
}

# make FILE VARIABLE VOLUME COMMAND: the file, of the variable, or else of what the command prints.
make() {
    file=$folder/$1
    if [ -d "$file" ]; then
        echo "$file is a folder, as some engines make one in place of a file that is not there: remove it." >&2
        exit 1
    fi
    # An empty line is none: with it, what needs the secret would not start.
    if [ -f "$file" ] && grep -q '[^[:space:]]' "$file"; then
        echo "$file is there already."
        return
    fi
    value=$(setting "$2")
    if [ -n "$value" ]; then
        how="from $2; take that out of .env, where nothing reads it any more"
    elif [ -n "$3" ] && in_use "$3"; then
        echo "$file is not there, and the volume ${project}_$3 is, whose password nobody else knows: write it into the" >&2
        echo "file, or remove the volume with all that is in it (docker volume rm ${project}_$3)." >&2
        exit 1
    else
        value=$($4)
        how="made by chance"
    fi
    # Whole or not at all.
    (umask 077 && printf '%s\n' "$value" > "$file.new")
    chmod 444 "$file.new"
    mv -f "$file.new" "$file"
    echo "$file: $how."
}

make database_password POSTGRES_PASSWORD postgres password
make redis_password REDIS_PASSWORD "" password
make flower_password FLOWER_PASSWORD "" password
make api_tokens API_TOKENS "" token
make notice_secret NOTICE_SECRET "" signature

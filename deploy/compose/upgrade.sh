#!/usr/bin/env bash
# Brings the stack that runs here to the files that are here now, without a pause: the image is built, the tables are
# migrated, then the roles are replaced one after the other, the workers of runs last. New workers of runs take runs from
# the moment that the old ones take no more, and these are waited for: their runs end in peace.
# Repeating it does no harm, and does what is left; Ctrl-C leaves a system that works, and says what is left.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # Whoever calls it with sh.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."   # Where the script is, and not where a link to it is.

#: Seconds in which what was started must be green, and between two words about those who are waited for.
GREEN=180
PATIENCE=30
#: In the order in which they are replaced; a service of your own is of the kind whose name its own begins with.
SERVERS="postgres redis"
ROLES="beat worker-control worker-logs worker-archive flower api"

usage() {
    echo "usage: deploy/compose/upgrade.sh [--no-build]"
    echo "  --no-build  with the image that is there, which was pulled or built before"
}
build=yes
for argument in "$@"; do
    case "$argument" in
        --no-build) build=no ;;
        -h | --help) usage; exit 0 ;;
        *) echo "There is no argument $argument." >&2; usage >&2; exit 2 ;;
    esac
done

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() { say "$*" >&2; exit 1; }

docker compose version > /dev/null 2>&1 || fail "docker compose does not answer: this needs Docker with Compose 2.28."
services=$(docker compose config --services) || exit 1
# Two at once would take each other's new workers for what is to stay, and each other's containers away. The lock ends with
# the last of what this starts, however this ends.
if command -v flock > /dev/null; then
    exec 9< .
    flock --nonblock 9 || fail "Another call of this is under way here."
fi
# Of each service, what Compose will know again what it has made by.
hashes=$(docker compose config --hash '*') || exit 1

# -- signals: a step that must not be half done is let finish, and no other is begun

stopped=""
job=""
patient=yes
left=""
interrupted() {
    stopped=yes
    if [ "$patient" = no ] && [ -n "$job" ]; then kill -s INT -- "-$job" 2> /dev/null || true; fi
}
trap interrupted INT TERM HUP

leave_if_asked() {
    [ -n "$stopped" ] || return 0
    say "Stopped. What runs goes on. Left: $left. deploy/compose/upgrade.sh does that." >&2
    exit 130
}

# run COMMAND: in a process group of its own, so that Ctrl-C reaches this script and not the command.
run() {
    set -m
    "$@" < /dev/null &
    job=$!
    set +m
    while :; do
        status=0
        wait "$job" || status=$?
        # A signal ends the waiting, not the command.
        [ "$status" -gt 128 ] && kill -0 "$job" 2> /dev/null || break
    done
    job=""
    return "$status"
}

# step SENTENCE COMMAND: it ends before this script does, however it is asked.
step() {
    leave_if_asked
    say "$1"
    shift
    run "$@" || fail "That failed: $*. What runs goes on. Left: $left."
}

# long SENTENCE COMMAND: one that may be cut off.
long() {
    patient=no
    leave_if_asked
    say "$1"
    shift
    if ! run "$@"; then
        leave_if_asked
        fail "That failed: $*. What runs goes on. Left: $left."
    fi
    patient=yes
}

pause() { sleep 1 || true; }

# -- what is there

# of KIND: the services of that kind.
of() { printf '%s\n' "$services" | grep -E "^$1(-.*)?\$" || true; }
state() { docker inspect --format "$1" "$2" 2> /dev/null || true; }
count() { echo $#; }
label() { echo "{{index .Config.Labels \"com.docker.compose.$1\"}}"; }
#: By what Compose, and this, know a container again that is what the files and the image would make now.
MADE_OF="$(label config-hash) {{.Image}}"
# containers SERVICE: all of it, but for those of `docker compose run`, which somebody may be working in.
containers() {
    for one in $(docker compose ps --all --quiet "$1"); do
        [ "$(state "$(label oneoff)" "$one")" = True ] || echo "$one"
    done
}
# each FORMAT CONTAINER…: what that is of each.
each() {
    format=$1
    shift
    for one in "$@"; do state "$format" "$one"; done
}

# is_current SERVICE CONTAINER: whether it is what the files and the image would make now.
is_current() {
    wanted=$(printf '%s\n' "$hashes" | sed -n "s/^$1 //p")
    image=$(docker image inspect --format '{{.Id}}' "$(state '{{.Config.Image}}' "$2")" 2> /dev/null || true)
    [ "$(state "$MADE_OF" "$2")" = "$wanted $image" ]
}

# sorted SERVICE: its containers, into `new` and `old`; of the old, those that have ended are of no use to anybody, and of
# the new, those that rest were never started, or were stopped.
sorted() {
    new="" old="" ended="" resting=""
    for one in $(containers "$1"); do
        runs=$(state '{{.State.Running}}' "$one")
        if is_current "$1" "$one"; then
            new="$new $one"
            [ "$runs" = true ] || resting="$resting $one"
        elif [ "$runs" = true ]; then
            old="$old $one"
        else
            ended="$ended $one"
        fi
    done
    # A question that Ctrl-C cut off has sorted something wrongly.
    leave_if_asked
}

# green SERVICE: wait until all that is current of it runs and is healthy.
green() {
    began_to_wait=$SECONDS
    while :; do
        leave_if_asked
        sorted "$1"
        waiting=""
        for one in $new; do
            [ "$(state '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}healthy{{end}}' "$one")" = "running healthy" ] \
                || waiting=yes
        done
        [ -n "$waiting" ] || [ -z "$new" ] || return 0
        [ $((SECONDS - began_to_wait)) -le "$GREEN" ] || fail "$1 is not green after $GREEN seconds; 'docker compose logs $1' says why. Left: $left."
        pause
    done
}

# -- what is done

replace_server() {
    for service in $(of "$1"); do
        sorted "$service"
        [ -n "$old$ended$resting" ] || continue
        # An earlier release ran Redis as root, and its files are root's: nobody else could write to them.
        if [ "$service" = redis ] && [ -z "$(state '{{.Config.User}}' $(containers redis | head -n 1))" ]; then
            step "redis: its files become its own" give_to_redis
        else
            step "$service: started anew, since its image or what the files say of it has changed, or it did not run" \
                docker compose --progress quiet up -d --no-deps --no-build "$service"
        fi
        green "$service"
    done
}
give_to_redis() {
    docker compose --progress quiet stop redis
    docker compose --progress quiet run --rm --no-deps -T --user root --cap-add CHOWN redis chown -R redis:redis /data
    docker compose --progress quiet up -d --no-deps --no-build redis
}

replace_role() {
    for service in $(of "$1"); do
        # One that Compose had half replaced when it was ended is there twice, by the same number.
        number=$(each "$(label container-number)" $(containers "$service") | sort -u | grep -c .) || true
        if [ "$number" -eq 0 ]; then
            say "$service: none runs, and none is started ('docker compose up -d' does)."
            continue
        fi
        sorted "$service"
        [ -n "$old$ended$resting" ] || { say "$service: is current."; continue; }
        step "$service: $number replaced" \
            docker compose --progress quiet up -d --no-deps --no-build --scale "$service=$number" "$service"
        green "$service"
    done
}

replace_workers_of_runs() {
    for service in $(of worker-runs); do
        sorted "$service"
        # As many as there were: calls of this before may have begun, and each has started as many of its own.
        number=$(each "$MADE_OF" $old $new $ended | sort | uniq -c | sort -rn | awk '{ print $1; exit }')
        # Those that a call of this before has had end: Compose would start them again.
        remove $ended
        if [ -z "$old$new$ended" ]; then
            say "$service: none runs, and none is started ('docker compose up -d' does)."
            continue
        fi
        [ -n "$old$ended$resting" ] || { say "$service: is current."; continue; }
        leaving=$old
        step "$service: $number new beside $(count $old) old" \
            docker compose --progress quiet up -d --no-deps --no-build --no-recreate \
            --scale "$service=$((number + $(count $old)))" "$service"
        green "$service"
        [ -z "$leaving" ] || drain "$service" $leaving
    done
}

# drain SERVICE CONTAINER…: have them end, which they do when their runs have.
drain() {
    service=$1
    shift
    leave_if_asked
    say "$service: $# old take nothing new and end with their runs, within $(state '{{.Config.StopTimeout}}' "$1") seconds"
    # It outlives this script, so that those who do not end in time are ended all the same.
    set -m
    docker stop "$@" < /dev/null > /dev/null 2>&1 9<&- &
    set +m
    said_at=$SECONDS
    while :; do
        there=0
        for one in "$@"; do [ "$(state '{{.State.Running}}' "$one")" != true ] || there=$((there + 1)); done
        # Looked at first: Ctrl-C ends a question to the engine too, and what it did not answer is not gone.
        if [ -n "$stopped" ]; then
            say "Stopped. The old workers of $service end by themselves, and new ones take the runs." >&2
            say "Left: to remove those old containers, which deploy/compose/upgrade.sh does." >&2
            exit 130
        fi
        [ "$there" -gt 0 ] || break
        if [ $((SECONDS - said_at)) -ge "$PATIENCE" ]; then
            say "$service: $there old still have runs"
            said_at=$SECONDS
        fi
        pause
    done
    remove "$@"
}

# remove CONTAINER…: a `docker compose up` beside this may have been first.
remove() {
    for one in "$@"; do
        told=$(docker rm "$one" 2>&1) && continue
        case "$told" in
            *"No such container"* | *"already in progress"*) ;;
            *) fail "That failed: docker rm $one: $told. Left: to remove those old containers." ;;
        esac
    done
}

# -- all of it

running=$(docker compose ps --quiet)
[ -n "$running" ] || fail "Nothing of this project runs here: 'docker compose up -d' starts it."
rest="the workers of runs"
left="everything"
said=$(deploy/compose/secrets.sh) || exit 1
printf '%s\n' "$said" | grep -v "is there already" || true
[ "$build" = no ] || long "The image is built." docker compose --progress quiet build
for server in $SERVERS; do replace_server "$server"; done
left="the tables, $(echo "$ROLES" | sed 's/ /, /g'), $rest"
long "The tables are migrated." docker compose --progress quiet run --rm --no-deps -T migrate
for role in $ROLES; do
    left="$role and what comes after it, $rest last"
    replace_role "$role"
done
left=$rest
replace_workers_of_runs
say "Done in $SECONDS seconds."

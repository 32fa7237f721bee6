# Private MariaDB and Redis for tests: to be sourced by bash. `start_servers` starts both on free ports of the loopback
# with all their files in a new temporary folder, and exports TEST_MYSQL_URL, TEST_REDIS_URL and TEST_TMP;
# `stop_servers` stops them, by pid, and removes the folder. Servers of the system are neither used nor disturbed.

export PATH="$PATH:/usr/sbin:/sbin"
SERVER_PIDS=()

start_servers() {
    TEST_TMP=$(mktemp -d "${TMPDIR:-/tmp}/gateway-test.XXXXXX")
    export TEST_TMP
    start_mariadb
    start_redis
}

stop_servers() {
    local pid
    for pid in "${SERVER_PIDS[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${SERVER_PIDS[@]}"; do wait "$pid" 2>/dev/null; done
    SERVER_PIDS=()
    [ -z "${TEST_TMP:-}" ] || rm -rf "$TEST_TMP"
}

# Runs a command, in a process group of its own so that `stop_command` can end it with all its children.
run_command() {
    set -m
    "$@" </dev/null &
    COMMAND_PID=$!
    set +m
    wait "$COMMAND_PID"
    local code=$?
    COMMAND_PID=
    return "$code"
}

stop_command() {
    [ -z "${COMMAND_PID:-}" ] && return
    kill -- "-$COMMAND_PID" 2>/dev/null
    wait "$COMMAND_PID" 2>/dev/null
    COMMAND_PID=
}

start_mariadb() {
    local dir="$TEST_TMP/mariadb" port me
    port=$(free_port)
    me=$(id -un)
    mkdir "$dir"
    # --no-defaults: the machine's own configuration must not leak in. utf8mb4 is what Debian's and MySQL 8's own
    # defaults are, which --no-defaults would lose.
    # TMPDIR of its own: a MariaDB that starts clears it of what the one before has left, and would take from others.
    if ! TMPDIR="$dir" mariadb-install-db --no-defaults --datadir="$dir/data" --user="$me" --skip-test-db \
        --auth-root-authentication-method=normal >"$dir/install.log" 2>&1; then
        cat "$dir/install.log" >&2
        return 1
    fi
    TMPDIR="$dir" setsid mariadbd --no-defaults --datadir="$dir/data" --user="$me" --bind-address=127.0.0.1 --port="$port" \
        --socket="$dir/socket" --pid-file="$dir/pid" --character-set-server=utf8mb4 --max-connections=1000 \
        >"$dir/log" 2>&1 &
    SERVER_PIDS+=($!)
    wait_until "MariaDB" "$!" "$dir/log" mariadb-admin --no-defaults --socket="$dir/socket" --user=root ping
    export TEST_MYSQL_URL="mysql://root@127.0.0.1:$port/"
}

start_redis() {
    local dir="$TEST_TMP/redis" port
    port=$(free_port)
    mkdir "$dir"
    setsid redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --save '' --appendonly no >"$dir/log" 2>&1 &
    SERVER_PIDS+=($!)
    wait_until "Redis" "$!" "$dir/log" redis-cli -p "$port" ping
    export TEST_REDIS_URL="redis://127.0.0.1:$port/"
}

# A port nobody listens on, below the range the kernel takes for outgoing connections.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

# wait_until NAME PID LOG COMMAND...: until the command succeeds; fails when the process ended or a minute is over.
wait_until() {
    local name=$1 pid=$2 log=$3 tries
    shift 3
    for ((tries = 0; tries < 600; tries++)); do
        "$@" >/dev/null 2>&1 && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "$name did not start:" >&2
    tail -n 20 "$log" >&2
    return 1
}

#!/bin/bash
# Runs every check and every test, each with its time, and ends with `N passed, N failed`.
#
#   scripts/test.sh            everything (make test, CI)
#   scripts/test.sh lint       formatting and warnings only
#
# What cannot run here says so and counts as failed: a test that is left out proves nothing. Only the advisories, which are not
# ours and change without us, may be out of reach; then the end says that they were not checked.
set -uo pipefail
cd "$(dirname "$0")/.."
export ACKTRAIL_WORK=${ACKTRAIL_WORK:-$PWD/.work}
work=$ACKTRAIL_WORK
export PATH=$work/rust/bin:$work/go/bin:$PATH
logs=$work/log/test
target=${CARGO_TARGET_DIR:-$PWD/target}
passed=0 failed=0 failures=() unchecked=()
# The Kafka scenarios of two client libraries, and those of share groups. Left out for their time: a broker that dies, and a
# retention that has to pass.
kafka='^(?!(broker-killed|expired)-)(.*-(java|librdkafka)|share-.*)$'
mkdir -p "$logs"

main() {
    local from=$SECONDS
    case ${1:-all} in
    lint) lint ;;
    all) everything ;;
    *) echo "test.sh: nothing or lint, not '$1'" >&2 && exit 2 ;;
    esac
    echo
    # Last, so that a log of which only the end was kept still says what failed.
    for name in "${failures[@]}"; do
        echo "FAILED: $name (all of it: $logs/$name.log)"
        causes "$logs/$name.log" | cut -c-400 | sed 's/^/    /'
    done
    for what in "${unchecked[@]}"; do echo "NOT CHECKED: $what"; done
    echo "$((SECONDS - from)) s in all"
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
}

lint() {
    step rustfmt cargo fmt --check
    step clippy cargo clippy --locked --quiet --all-targets -- -D warnings
    step clippy-core cargo clippy --locked --quiet --no-default-features --all-targets -- -D warnings
    for feature in kernel otlp; do
        step "clippy-$feature" cargo clippy --locked --quiet --no-default-features --features "$feature" --all-targets -- -D warnings
    done
    step clang-format clang-format --dry-run -Werror bpf/*.[ch]
    step scripts bash -n scripts/*.sh .ci/run
    advisories
}

# Versions in the lock files with known vulnerabilities. ACKTRAIL_ADVISORIES names a copy of the database (see advisories.py).
advisories() {
    local database=${ACKTRAIL_ADVISORIES:-$work/advisory-db.tar.gz}
    local from=https://github.com/rustsec/advisory-db/archive/refs/heads/main.tar.gz
    if [ -z "${ACKTRAIL_ADVISORIES:-}" ] && ! curl -fsSL --connect-timeout 10 --max-time 120 -o "$database" "$from" \
        2>"$logs/advisories.log"; then
        unchecked+=("known vulnerabilities of dependencies: no advisory database, $(tail -1 "$logs/advisories.log")")
        printf '%-14s NOT CHECKED\n' advisories
        return
    fi
    step advisories python3 scripts/advisories.py "$database"
}

everything() {
    step deps scripts/deps.sh test
    # Without its tools nothing below says anything.
    [ $failed = 0 ] || return
    lint
    step core cargo test --locked --no-fail-fast --no-default-features
    step all-features env PROPERTY_FACTOR=4 cargo test --locked --no-fail-fast
    step kafka-layouts cargo test --locked --test kafka_layouts -- --ignored
    if [ "$(id -u)" = 0 ]; then
        step kernel cargo test --locked --test kernel -- --ignored --test-threads=1
    else
        cannot kernel "capturing needs root"
    fi
    step agent cargo build --locked
    export ACKTRAIL=$target/debug/acktrail
    if [ "$(id -u)" = 0 ]; then
        truth truth-3.10 truth.run --broker 3.10
        truth truth-4 truth.run --broker 4
        truth networks truth.networks
        truth perftest truth.perftest
        truth disturbed truth.disturbed
        truth kafka truth.kafka.run --broker 4 --only "$kafka"
        truth kafka-disturbed truth.kafka.disturbed --broker 4 --only late --only stalled --only hostile --seconds 4
        truth kafka-cluster truth.kafka.cluster --seconds 6
        for broker in rabbitmq kafka; do
            step "demo-$broker" "$work/venv/bin/python" demo/demo.py "$broker" --seconds 8
        done
    else
        cannot truth "capturing, and the chroot of RabbitMQ 4, need root"
    fi
}

# truth NAME MODULE WORDS...
truth() {
    local name=$1 module=$2
    shift 2
    step "$name" env -C tests/brokers "$work/venv/bin/python" -m "$module" "$@"
}

# step NAME COMMAND...: runs it, shows its result in one line, and adds up what it counted itself.
step() {
    local name=$1 from=$SECONDS rc=0 good bad
    shift
    "$@" >"$logs/$name.log" 2>&1 </dev/null || rc=$?
    read -r good bad < <(counts "$logs/$name.log")
    if [ $rc != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    if [ $rc = 0 ] && [ "$good" = 0 ]; then good=1; fi
    passed=$((passed + good)) failed=$((failed + bad))
    printf '%-14s %4d s  %5d passed %4d failed\n' "$name" $((SECONDS - from)) "$good" "$bad"
    if [ "$bad" != 0 ]; then
        failures+=("$name")
        tail -60 "$logs/$name.log" | sed 's/^/    /'
    fi
}

# causes LOG: what failed, in at most 40 lines: the truth tests' own closing list, else what compilers and test runners mark.
causes() {
    if grep -q '^failed checks:$' "$1"; then
        sed -n '/^failed checks:$/,$p' "$1" | head -41
    elif grep -qE "$marks" "$1"; then
        grep -E -A 3 "$marks" "$1" | head -40
    else
        tail -20 "$1"
    fi
}
marks='^(error|warning|FAILED|Traceback|[A-Za-z.]*Error)|panicked at|^test .* FAILED$|^Diff in '

cannot() {
    echo "CANNOT RUN: $1: $2"
    echo "$2" >"$logs/$1.log"
    failed=$((failed + 1))
    failures+=("$1")
}

# Sums the closing lines of cargo's test runner and of the truth tests.
counts() {
    awk '/^test result:/ {good += $4; bad += $6}
         /^[0-9]+ passed, [0-9]+ failed$/ {good += $1; bad += $3}
         END {print good + 0, bad + 0}' "$1"
}

main "$@"

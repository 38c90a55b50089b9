#!/bin/bash
# Installs what building, demonstrating and testing acktrail needs, on Debian 12. Quiet, and quick when there is nothing to do.
#
#   scripts/deps.sh build            what `make build` needs: clang, libelf, zlib, pkg-config, Rust
#   scripts/deps.sh lint             build, and what the checks need
#   scripts/deps.sh demo             build, and a RabbitMQ with a Python client
#   scripts/deps.sh demo-kafka       build, and the newest Kafka with a Python client
#   scripts/deps.sh kafka            Kafka, old and new, and its clients: all that truth.kafka needs beside the agent
#   scripts/deps.sh test             demo, kafka, and everything that the tests compare with (the default)
#
# Packages of the system are installed only where they are missing (this needs root); everything else goes into
# ACKTRAIL_WORK (.work of this repository by default), which can be deleted at any time.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${ACKTRAIL_WORK:-$PWD/.work}
level=${1:-test}
perftest_version=2.22.1
# Kafka's message definitions: the last release of each line that still has versions which the later ones dropped, and the newest.
kafka_definitions="2.8.2 3.9.2 4.3.1 4.4.0"
# The newest Kafka; of its command-line tools the newest that are published; and the oldest line that is tested.
kafka_version=4.4.0 kafka_tools_version=4.3.1 kafka_old_version=2.8.2
rust_needed=1.88.0 rust_version=1.95.0 rustup_version=1.28.2
go_needed=1.26.0 go_version=1.26.8
export PATH=$work/rust/bin:$work/go/bin:$PATH
mkdir -p "$work/log"

main() {
    case $level in
    build) build ;;
    lint) build; lint ;;
    demo) build; demo ;;
    demo-kafka) build; kafka_4 ;;
    kafka) kafka ;;
    test) build; lint; demo; tests; kafka ;;
    *) echo "deps.sh: build, lint, demo, demo-kafka, kafka or test, not '$level'" >&2; exit 2 ;;
    esac
}

build() {
    packages make gcc pkg-config clang libelf-dev zlib1g-dev ca-certificates
    # One that is new enough is used as it is. Once there is one in .work, it is that one.
    local have=
    have=$(rustc --version 2>/dev/null | cut -d' ' -f2) || have=
    if [ -e "$work/rust" ] || ! command -v cargo >/dev/null || ! newer "${have:-0}" $rust_needed; then
        command -v curl >/dev/null || packages curl
        step rust "Rust $rust_version, in $work/rust (found: ${have:-none}; needed: $rust_needed)" $rust_version \
            "$work/rust/bin/cargo" make_rust
    fi
}

golang() {
    command -v go >/dev/null || packages golang-go
    local have
    have=$(go version | sed 's/^go version go//; s/ .*//')
    if [ -e "$work/go" ] || ! newer "$have" $go_needed; then
        step go "Go $go_version, in $work/go (found: $have; needed: $go_needed)" $go_version "$work/go/bin/go" make_golang
    fi
}

lint() { packages clang-format curl python3; }

demo() {
    packages rabbitmq-server
    venv
}

venv() {
    packages python3-venv
    step venv "python venv with the clients of tests/brokers/requirements.txt" \
        "$(fingerprint tests/brokers/requirements.txt)" "$work/venv/bin/python" make_venv
}

jdk() {
    command -v javac >/dev/null || packages default-jdk-headless
    maven
}

# A broker needs no compiler.
jre() {
    command -v java >/dev/null || packages default-jre-headless
    maven
}

maven() { command -v mvn >/dev/null || packages maven; }

kafka_4() {
    jre
    venv
    step kafka-4 "Kafka $kafka_version, tools of $kafka_tools_version" "$kafka_version/$kafka_tools_version" \
        "$work/kafka-4/kafka_2.13-$kafka_version.jar" make_kafka_4
}

kafka() {
    jdk
    golang
    kafka_4
    step kafka-2.8 "Kafka $kafka_old_version, with ZooKeeper" "$kafka_old_version" \
        "$work/kafka-2.8/kafka_2.13-$kafka_old_version.jar" make_kafka_old
    step kafka-java-client "truth client for Kafka, Java" "$kafka_version/$(fingerprint tests/brokers/clients/kafka-java)" \
        "$work/clients/kafka-java/KafkaTruth.class" make_kafka_java
    step kafka-go-client "truth client for Kafka, Go (franz-go)" "$(fingerprint tests/brokers/clients/kafka-go)" \
        "$work/clients/truth-kafka-go" make_kafka_go
}

tests() {
    packages bpftool iproute2 nftables tshark mmdebstrap
    jdk
    golang
    step rabbitmq4 "RabbitMQ 4 of Debian trixie, in a chroot" 1 "$work/rabbitmq4/usr/sbin/rabbitmq-server" make_rabbitmq4
    step perftest "PerfTest $perftest_version and the Java client" "$perftest_version" \
        "$work/perftest/perf-test-$perftest_version.jar" make_perftest
    step kafka-definitions "Kafka's message definitions, $kafka_definitions" "$kafka_definitions" \
        "$work/kafka-definitions/${kafka_definitions##* }/common/message/ProduceRequest.json" make_kafka_definitions
    step java-client "truth client, Java" "$(fingerprint tests/brokers/clients/java)" \
        "$work/clients/java/TruthClient.class" make_java
    step go-client "truth client, Go" "$(fingerprint tests/brokers/clients/go)" "$work/clients/truth-go" make_go
    step lapin-client "truth client, Rust (lapin)" "$(fingerprint tests/brokers/clients/lapin)" \
        "$work/clients/truth-lapin" make_lapin
    step collector "OpenTelemetry Collector" "$(fingerprint tests/collector)" "$work/otelcol-0.155.0" make_collector
}

# With rustup, whose checksums are those beside it on static.rust-lang.org. Touches nothing outside of .work.
make_rust() {
    local host sum from=${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup} get=$work/rustup-init
    case $(uname -m) in
    x86_64) host=x86_64-unknown-linux-gnu sum=20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c ;;
    aarch64) host=aarch64-unknown-linux-gnu sum=e3853c5a252fca15252d07cb23a1bdd9377a8c6f3efa01531109281ae47f841c ;;
    *) without_rust "not for $(uname -m)" ;;
    esac
    rm -rf --one-file-system "$work/rust" "$work/rustup"
    curl -fsSL --connect-timeout 20 --retry 2 -o "$get" "$from/archive/$rustup_version/$host/rustup-init" ||
        without_rust "$from cannot be reached"
    echo "$sum  $get" | sha256sum --check --quiet || without_rust "what came from $from is not rustup $rustup_version"
    chmod +x "$get"
    RUSTUP_HOME=$work/rustup CARGO_HOME=$work/rustup/cargo RUSTUP_INIT_SKIP_PATH_CHECK=yes "$get" -y --quiet \
        --no-modify-path --profile minimal --component clippy --component rustfmt --default-toolchain $rust_version ||
        without_rust "rustup failed"
    rm "$get"
    # The toolchain itself, not rustup's stand-ins for it, which would want RUSTUP_HOME.
    ln -s "rustup/toolchains/$rust_version-$host" "$work/rust"
}

without_rust() {
    echo "Rust could not be installed: $1" >&2
    echo "Install $rust_needed or newer in another way and run this again: https://rustup.rs, or from Debian 12's security" >&2
    echo "updates, without clippy: apt-get install rustc-web cargo-web rustfmt-web" >&2
    exit 1
}

make_venv() {
    python3 -m venv --clear "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/brokers/requirements.txt
}

make_rabbitmq4() {
    [ "$(id -u)" = 0 ] || fail "the chroot of RabbitMQ 4 needs root"
    rm -rf --one-file-system "$work/rabbitmq4" "$work/rabbitmq4.new"
    mmdebstrap --quiet --variant=minbase --include=rabbitmq-server trixie "$work/rabbitmq4.new"
    mv "$work/rabbitmq4.new" "$work/rabbitmq4"
}

make_perftest() {
    jars "$work/perftest" "
<dependency><groupId>com.rabbitmq</groupId><artifactId>perf-test</artifactId><version>$perftest_version</version></dependency>"
}

# Each release's kafka-clients, the definitions inside of it, and what its classes cannot be loaded without.
make_kafka_definitions() {
    local folder=$work/kafka-definitions copy="mvn -q -B dependency:copy" version
    rm -rf "$folder" && mkdir -p "$folder"
    $copy -Dartifact=org.slf4j:slf4j-api:1.7.36 -DoutputDirectory="$folder" -Dmdep.stripVersion
    for version in $kafka_definitions; do
        $copy -Dartifact="org.apache.kafka:kafka-clients:$version" -DoutputDirectory="$folder"
        mkdir "$folder/$version"
        (cd "$folder/$version" && jar xf "../kafka-clients-$version.jar" common/message)
    done
}

make_java() {
    rm -rf "$work/clients/java" && mkdir -p "$work/clients/java"
    javac -Xlint:all -Werror -Xlint:-classfile,-processing -cp "$work/perftest/*" -d "$work/clients/java" \
        tests/brokers/clients/java/*.java
}

# As a module, which any older Go can get and checks against Go's own database of checksums.
make_golang() {
    local get=$work/go.get zip=golang.org/toolchain@v0.0.1-go$go_version.linux-$(go env GOARCH)
    rm -rf --one-file-system "$work/go" "$get"
    mkdir "$get"
    (cd "$get" && echo 'module get' >go.mod && GOMODCACHE=$get GOFLAGS=-modcacherw go mod download "$zip")
    # Modules hold no executables.
    chmod +x "$get/$zip"/bin/* "$get/$zip"/pkg/tool/*/*
    mv "$get/$zip" "$work/go"
    rm -r "$get"
}

make_go() {
    mkdir -p "$work/clients"
    (cd tests/brokers/clients/go && go build -o "$work/clients/truth-go" .)
}

# The broker of the newest version names tools that are not published; older ones run with its libraries.
make_kafka_4() {
    jars "$work/kafka-4" "
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version><exclusions>
<exclusion><groupId>org.apache.kafka</groupId><artifactId>kafka-tools-api</artifactId></exclusion></exclusions></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka_tools_version</version><exclusions>
<exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion></exclusions></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>"
}

make_kafka_old() {
    jars "$work/kafka-2.8" "
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_old_version</version><exclusions>
<exclusion><groupId>org.slf4j</groupId><artifactId>slf4j-log4j12</artifactId></exclusion></exclusions></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>"
}

# jars DIRECTORY DEPENDENCIES: all jars that they need.
jars() {
    rm -rf --one-file-system "$1" && mkdir -p "$1"
    cat >"$1/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>acktrail</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging><dependencies>$2
</dependencies></project>
POM
    (cd "$1" && mvn -q -B dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=.)
}

make_kafka_java() {
    rm -rf "$work/clients/kafka-java" && mkdir -p "$work/clients/kafka-java"
    javac -Xlint:all -Werror -Xlint:-classfile,-processing -cp "$work/kafka-4/*" -d "$work/clients/kafka-java" \
        tests/brokers/clients/kafka-java/*.java
}

make_kafka_go() {
    mkdir -p "$work/clients"
    (cd tests/brokers/clients/kafka-go && go build -o "$work/clients/truth-kafka-go" .)
}

make_collector() { tests/collector/build.sh "$work/otelcol-0.155.0"; }

make_lapin() {
    mkdir -p "$work/clients"
    CARGO_TARGET_DIR="$work/clients/lapin-target" cargo build --quiet --locked --release \
        --manifest-path tests/brokers/clients/lapin/Cargo.toml
    cp "$work/clients/lapin-target/release/truth-lapin" "$work/clients/truth-lapin"
}

# packages NAME...: installs the missing ones. Services of theirs are not started: the tests start their own.
packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q ' installed$' || missing+=("$name")
    done
    [ ${#missing[@]} = 0 ] && return
    [ "$(id -u)" = 0 ] || fail "missing packages, and not root: apt-get install ${missing[*]}"
    echo "deps: apt-get install ${missing[*]}"
    local log=$work/log/apt.log policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
    fi
    local rc=0
    { export DEBIAN_FRONTEND=noninteractive
      apt-get -q update && apt-get -q -y --no-install-recommends install "${missing[@]}"; } >"$log" 2>&1 </dev/null || rc=$?
    [ -z "$made" ] || rm -f $policy
    [ $rc = 0 ] || { tail -5 "$log" >&2; fail "apt-get failed; all of it is in $log"; }
}

# step NAME WORDS FINGERPRINT RESULT COMMAND: runs COMMAND unless RESULT exists and was made from the same FINGERPRINT.
step() {
    local name=$1 words=$2 print=$3 result=$4 stamp=$work/stamp.$1 from=$SECONDS
    [ -e "$result" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$print" ] && return
    # Not as a condition of `if`: there `set -e` would hold for nothing in it.
    local rc=0
    set +e
    (set -e; "$5") >"$work/log/$name.log" 2>&1 </dev/null
    rc=$?
    set -e
    if [ $rc != 0 ] || [ ! -e "$result" ]; then
        tail -20 "$work/log/$name.log" >&2
        fail "$words: failed; all of it is in $work/log/$name.log"
    fi
    echo "$print" >"$stamp"
    echo "deps: $words ($((SECONDS - from)) s)"
}

fingerprint() { find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16; }
newer() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$2" ]; }
fail() { echo "deps: $*" >&2; exit 1; }

main

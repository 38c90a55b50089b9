#!/bin/sh
# Builds a small, real OpenTelemetry Collector: OTLP in, a file of JSON out. Needs Go and its module proxy the first time.
# Usage: build.sh OUTPUT
set -eu
output=$(realpath -m "$1")
mkdir -p "$(dirname "$output")"
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "build.sh: Go is not installed (Debian: golang-go; go.mod names the version)" >&2; exit 1; }
# Beside its place first: whoever finds it there finds it whole.
CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$output.new" .
mv "$output.new" "$output"

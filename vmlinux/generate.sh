#!/bin/sh
# Writes vmlinux/<architecture>/vmlinux.h from a kernel's BTF.
#   vmlinux/generate.sh                        the running kernel, its architecture
#   vmlinux/generate.sh aarch64 IMAGE          an uncompressed kernel image of another machine (see README.md)
# Needs bpftool, and python3 for images.
set -eu
cd "$(dirname "$0")"
architecture=${1:-$(uname -m)}
btf=/sys/kernel/btf/vmlinux
if [ $# -ge 2 ]; then
	btf=$(mktemp)
	trap 'rm -f "$btf"' EXIT
	python3 btf-of-image.py "$2" >"$btf"
fi
mkdir -p "$architecture"
bpftool btf dump file "$btf" format c >"$architecture/vmlinux.h.new"
mv "$architecture/vmlinux.h.new" "$architecture/vmlinux.h"

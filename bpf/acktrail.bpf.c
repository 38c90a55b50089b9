// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * acktrail's capture: three taps that copy the bytes of broker connections, and nothing else. No program changes, delays
 * or drops anything; all of them are gone with the last file descriptor of the agent.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "packets.h"
#include "reads.h"
#include "connections.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Shown by `bpftool prog`; build.rs defines both. */
const volatile char bpf_metadata_version[] SEC(".rodata") = ACKTRAIL_VERSION;
const volatile char bpf_metadata_build[] SEC(".rodata") = ACKTRAIL_BUILD;

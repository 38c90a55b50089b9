/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every map: its size, who writes it, what happens when it is full. */
#ifndef ACKTRAIL_MAPS_H
#define ACKTRAIL_MAPS_H

#include "event.h"

/* Records for userspace. Size: set before loading (option `ring_bytes`). Full: the record is counted and dropped. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ring SEC(".maps");

/* The flags of struct socket_state. */
#define STATE_FROM_START 1    /* seen from its first byte on: `send_start` and `receive_start` are exact */
#define STATE_PEER_CAPTURED 2 /* the sender's egress is captured on this host: its bytes are not taken a second time */
#define STATE_PEER_FOUND 64   /* the other end is captured on this host, with these addresses or translated ones */
#define STATE_LISTED 4	      /* stands in `captured_egress` */
#define STATE_SAMPLED_OUT 8   /* ignored because of sampling; its packets are counted */
#define STATE_BROKER_END 16   /* the broker reads here, and nobody asks when */
#define STATE_PROVEN 32	      /* its bytes proved a broker's protocol: watched under every rule that lets bytes decide */
#define STATE_OWNER_READ 128  /* its owner is known for certain: that process has read */

/* Where a stream stands, so that its next packet can be read from there on (skip.h). */
struct frames {
	__u64 body_left; /* of the content that is being sent, behind `next` */
	__u32 next;	 /* sequence number at which the next frame begins */
	__u32 from;	 /* everything from here to `next` is body, but for the end octet before `next`; may be `next` itself */
	__u16 channel;	 /* of the content; of batches: how far behind a packet's start, or a field's end, the last one was found */
	__u16 keep;	 /* bytes of its body that are still to be copied */
	__u8 known;	 /* 0: nothing is known */
	__u8 expects;
	__u8 in_vain; /* packets in a row of which nothing was left out */
	__u8 pad;
};

/*
 * What is known about a socket. It dies with the socket, so its number is that of the host's TCP sockets that sent or
 * received anything since the start. Written by all programs. No memory: the socket is not watched and counted in
 * `untracked_sockets`.
 */
struct socket_state {
	/* Of every packet and read: with the kernel's own word before it, one cache line. */
	__u64 cookie;
	__u32 generation;
	__u8 verdict;
	__u8 announced;
	__u8 origin;
	__u8 flags;
	__u32 lost[2];	/* by direction */
	__u32 searches; /* packets for which its peer was looked for in `captured_egress` in vain */
	__u32 owner_pid;
	__u16 broker_port;
	__u8 undecided_packets;
	__u8 pad;
	__u8 skipping[2]; /* by direction: a body is being left out */
	__u8 batches[2];  /* by direction: the DEMAND_* flags of its last large packet */
	__u32 reported_copied;
	__u32 confirms_from; /* sequence numbers: what it received between them is nothing but confirms */
	__u32 confirms_to;
	/* Of packets with bodies. */
	struct frames frames[2]; /* by direction */
	/* Of its beginning. */
	__u64 cgroup;
	__u32 netns;
	__u32 send_start; /* sequence number of the first byte that it sent, or one less if it is a client */
	__u32 receive_start;
	__u32 connection; /* hash of its addresses */
	char executable[EXECUTABLE_BYTES];
};

_Static_assert(__builtin_offsetof(struct socket_state, frames) <= 64 - sizeof(void *), "beyond the first cache line");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} sockets SEC(".maps");

/*
 * A flow, named by where its own stream and the opposite one begin: 64 bits that both kernels' ends know, that do not
 * depend on addresses (translated between containers, equal on every host's loopback), and that no two connections share.
 */
struct flow {
	__u32 sender_start;
	__u32 receiver_start;
};

/* Who captures it. */
struct taken {
	__u64 cookie;
	__u32 connection; /* as in struct socket_state */
	__u32 broker_end;
};

/*
 * Flows whose sender's egress is captured. Written by the sender's end when it is decided, deleted when it closes. Full:
 * the entry longest unused goes, and a receiver that had not found it yet copies the flow a second time, which userspace
 * drops as a duplicate.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow);
	__type(value, struct taken);
} captured_egress SEC(".maps");

/* Ids of the cgroups that limit what is watched, with all below them. Written by userspace, which reports a full map. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} watch_cgroups SEC(".maps");

/* Verdicts that userspace forces upon single sockets, by cookie. Full: the one longest unused goes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} overrides SEC(".maps");

/*
 * The capture's own figures, one entry per processor, mapped into userspace: reading them needs no privilege on any
 * kernel. Size: the number of possible processors, set before loading.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/*
 * Flows that userspace does not need all of: in the place of a socket and direction a word of DEMAND_* flags. Mapped into
 * userspace, which writes single words. Two flows with the same place: the later one has it, and the other is taken whole.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, DEMAND_PLACES);
	__type(key, __u32);
	__type(value, __u64);
} demands SEC(".maps");

/* The DEMAND_* flags of a flow; 0: all of it is needed. */
static __always_inline __u32 demand_of(struct socket_state *s, __u32 direction)
{
	__u32 place = (s->cookie * 2 + direction) % DEMAND_PLACES;
	__u64 *word = bpf_map_lookup_elem(&demands, &place);

	if (!word || *word >> DEMAND_BITS != s->cookie || (*word & DEMAND_INGRESS) != direction)
		return 0;
	return *word & ((1 << DEMAND_BITS) - 1) & ~DEMAND_INGRESS;
}

/* In .bss, which userspace maps into its memory. */
struct control control;

/* Whether nothing but its ports is needed to know that a connection interests nobody. */
static __always_inline bool ports_exclude(__u16 one, __u16 other)
{
	if (!control.ports_decide)
		return false;
	for (__u32 i = 0; i < WATCH_PORTS && i < control.watch_ports_used; i++) {
		if (control.watch_ports[i] == one || control.watch_ports[i] == other)
			return false;
	}
	return true;
}

#endif

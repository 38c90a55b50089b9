/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the programs and userspace share: the records of the ring, the control page, the counters.
 *
 * Plain fixed-width integers of the machine's byte order, explicit padding, no bit-fields, no pointers. Userspace decodes
 * them in src/capture/wire.rs; its test reads the LAYOUT lines below, and the compiler checks them here, so neither side
 * can move a field alone.
 */
#ifndef ACKTRAIL_EVENT_H
#define ACKTRAIL_EVENT_H

#define LAYOUT(type, field, offset, size)                                                              \
	_Static_assert(__builtin_offsetof(struct type, field) == (offset), #type "." #field " moved"); \
	_Static_assert(sizeof(((struct type *)0)->field) == (size), #type "." #field " has another size")
#define LAYOUT_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type " has another size")

/* What a record is: the first byte of each. */
enum record_kind {
	RECORD_SEGMENT = 1,
	RECORD_SOCKET = 2,
	RECORD_READ = 3,
	RECORD_CLOSED = 4,
	RECORD_LISTEN = 5,
};

enum direction {
	EGRESS = 0,
	INGRESS = 1,
};

/* How every record begins. `time_ns` is CLOCK_MONOTONIC. */
struct record_head {
	__u8 kind;
	__u8 direction; /* of a segment */
	__u8 flags;	/* of a segment: SEGMENT_*, of a socket: SOCKET_* */
	__u8 pad;
	__u32 from; /* of a read: where it began: where the last one ended, reported or lost */
	__u64 time_ns;
	__u64 cookie;
};
LAYOUT(record_head, kind, 0, 1);
LAYOUT(record_head, direction, 1, 1);
LAYOUT(record_head, flags, 2, 1);
LAYOUT(record_head, from, 4, 4);
LAYOUT(record_head, time_ns, 8, 8);
LAYOUT(record_head, cookie, 16, 8);
LAYOUT_SIZE(record_head, 24);

#define SEGMENT_MORE 1 /* another record of the same packet follows */

/* Payload of a packet, or a part of it: this head, then the room of a size class, of which `captured` bytes are filled. */
struct segment_record {
	struct record_head head;
	__u32 sequence; /* of the packet's first payload byte */
	__u32 acknowledged;
	__u32 length; /* of the packet's payload */
	__u32 offset; /* of the first captured byte in it */
	__u32 captured;
	__u32 lost; /* records of this socket and direction that did not fit into the ring so far */
};
LAYOUT(segment_record, sequence, 24, 4);
LAYOUT(segment_record, acknowledged, 28, 4);
LAYOUT(segment_record, length, 32, 4);
LAYOUT(segment_record, offset, 36, 4);
LAYOUT(segment_record, captured, 40, 4);
LAYOUT(segment_record, lost, 44, 4);
LAYOUT_SIZE(segment_record, 48);

enum origin {
	ORIGIN_UNKNOWN = 0,
	ORIGIN_CONNECTED = 1,
	ORIGIN_ACCEPTED = 2,
};

#define SOCKET_FROM_START 1 /* `send_next` and `copied` are where the two streams begin */
#define EXECUTABLE_BYTES 64 /* with its NUL; a longer name is cut */

/* A watched socket, and again when its owner changes. Addresses are IPv6 or IPv4-mapped, in network order; ports are not. */
struct socket_record {
	struct record_head head;
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
	__u16 broker_port; /* 0: not known */
	__u8 origin;
	__u8 pad;
	__u32 netns;
	__u32 pid; /* 0: not known */
	__u64 cgroup;
	__u32 send_next;
	__u32 copied;
	char executable[EXECUTABLE_BYTES];
};
LAYOUT(socket_record, local, 24, 16);
LAYOUT(socket_record, remote, 40, 16);
LAYOUT(socket_record, local_port, 56, 2);
LAYOUT(socket_record, remote_port, 58, 2);
LAYOUT(socket_record, broker_port, 60, 2);
LAYOUT(socket_record, origin, 62, 1);
LAYOUT(socket_record, netns, 64, 4);
LAYOUT(socket_record, pid, 68, 4);
LAYOUT(socket_record, cgroup, 72, 8);
LAYOUT(socket_record, send_next, 80, 4);
LAYOUT(socket_record, copied, 84, 4);
LAYOUT(socket_record, executable, 88, 64);
LAYOUT_SIZE(socket_record, 152);

/* An application has read up to `copied`. */
struct read_record {
	struct record_head head;
	__u32 copied;
	__u32 pid;
};
LAYOUT(read_record, copied, 24, 4);
LAYOUT(read_record, pid, 28, 4);
LAYOUT_SIZE(read_record, 32);

/* A watched socket has entered TCP_CLOSE. */
struct closed_record {
	struct record_head head;
	__u32 copied;
	__u32 pad;
};
LAYOUT(closed_record, copied, 24, 4);
LAYOUT_SIZE(closed_record, 32);

/* A socket listens (discovery only). */
struct listen_record {
	struct record_head head;
	__u8 local[16];
	__u16 local_port;
	__u16 pad;
	__u32 netns;
	__u32 pid;
	__u32 pad2;
	char executable[EXECUTABLE_BYTES];
};
LAYOUT(listen_record, local, 24, 16);
LAYOUT(listen_record, local_port, 40, 2);
LAYOUT(listen_record, netns, 44, 4);
LAYOUT(listen_record, pid, 48, 4);
LAYOUT(listen_record, executable, 56, 64);
LAYOUT_SIZE(listen_record, 120);

/* What is decided about a socket; also the values of the map `overrides`. */
enum verdict {
	VERDICT_UNKNOWN = 0, /* not decided: its first bytes will tell */
	VERDICT_WATCH = 1,
	VERDICT_IGNORE = 2,
};

/* What the reader of the ring does at the moment. */
enum reader_state {
	READER_AWAKE = 0,
	READER_NAPPING = 1, /* looks again in a few milliseconds: wake it only if `wake_bytes` wait */
	READER_ASLEEP = 2,  /* sleeps: wake it for the first record */
};

#define WATCH_PORTS 64
#define NODE_PORTS 16

/*
 * The page that userspace writes without a system call, and so without privileges on every kernel. Rules are read by every
 * packet, the reader's state is written by both sides: they sit on cache lines of their own.
 */
struct control {
	__u32 rules_generation; /* a socket whose verdict is of another generation is decided again at its next packet */
	__u32 unmatched;	/* enum verdict of a socket in scope whose ports nobody named */
	__u32 cgroups_only;	/* only sockets below a cgroup of `watch_cgroups` are in scope */
	__u32 sample_below;	/* connections with a hash below are kept; ~0 keeps all */
	__u32 skip_from_bytes;	/* insides of bodies are left out of packets of at least this much payload; 0: never */
	__u32 wake_bytes;
	__u32 announce_listeners;
	__u32 pad[9];
	__u32 reader_state;
	__u32 pad2[15];
	__u32 watch_ports_used;
	__u32 ports_decide;		/* a connection without a watched port cannot be of interest: nothing else is looked at */
	__u16 watch_ports[WATCH_PORTS]; /* of brokers: configured, or of listening sockets found; at either end */
	__u32 node_ports_used;
	__u16 node_ports[NODE_PORTS]; /* where nodes of a cluster connect to each other, as a broker's process says */
	__u32 pad3[21];
};
LAYOUT(control, rules_generation, 0, 4);
LAYOUT(control, unmatched, 4, 4);
LAYOUT(control, cgroups_only, 8, 4);
LAYOUT(control, sample_below, 12, 4);
LAYOUT(control, skip_from_bytes, 16, 4);
LAYOUT(control, wake_bytes, 20, 4);
LAYOUT(control, announce_listeners, 24, 4);
LAYOUT(control, reader_state, 64, 4);
LAYOUT(control, watch_ports_used, 128, 4);
LAYOUT(control, ports_decide, 132, 4);
LAYOUT(control, watch_ports, 136, 128);
LAYOUT(control, node_ports_used, 264, 4);
LAYOUT(control, node_ports, 268, 32);
LAYOUT_SIZE(control, 384);

#define DEMAND_PLACES 4096
/* A word of the map `demands`: a cookie, shifted by DEMAND_BITS, the direction, and what is not needed of that flow. */
#define DEMAND_BITS 5
#define DEMAND_INGRESS 1   /* the direction */
#define DEMAND_FLEXIBLE 2  /* Fetch responses are of flexible versions */
#define DEMAND_FETCHED 4   /* of batches that consumers fetch, the headers are enough */
#define DEMAND_PRODUCED 8  /* the same of batches that producers send */
#define DEMAND_NO_READS 16 /* nobody asks when it is read */

/* One per processor, cumulative. The units are in the names. */
struct counters {
	__u64 packets; /* with payload, of watched sockets, in a captured direction */
	__u64 payload_bytes;
	__u64 captured_bytes;
	__u64 skipped_bytes; /* left out on purpose: the inside of large bodies, and what is beyond the largest packet taken */
	__u64 ring_full_records;
	__u64 ring_full_bytes;
	__u64 unreadable_packets;
	__u64 untracked_sockets;
	__u64 sampled_out_packets;
	__u64 node_connections; /* seen between nodes of a broker's cluster on different hosts; one may count several times */
	__u64 pad[6];		/* a processor's entry shares no cache line with another's */
};
LAYOUT(counters, packets, 0, 8);
LAYOUT(counters, payload_bytes, 8, 8);
LAYOUT(counters, captured_bytes, 16, 8);
LAYOUT(counters, skipped_bytes, 24, 8);
LAYOUT(counters, ring_full_records, 32, 8);
LAYOUT(counters, ring_full_bytes, 40, 8);
LAYOUT(counters, unreadable_packets, 48, 8);
LAYOUT(counters, untracked_sockets, 56, 8);
LAYOUT(counters, sampled_out_packets, 64, 8);
LAYOUT(counters, node_connections, 72, 8);
LAYOUT_SIZE(counters, 128);

#endif

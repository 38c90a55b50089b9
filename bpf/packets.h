/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The packet tap: cgroup_skb at the root of cgroup v2, both ways.
 *
 * Why here: it sees what leaves a host whatever system call sent it (sendfile, io_uring, zero-copy), with the sequence
 * numbers that make gaps measurable, and needs neither kprobes nor trampolines. It always lets packets pass.
 * Cost: one look-up for a packet of an uninteresting socket; a look-up, a copy into the ring and a few counters for others.
 *
 * A byte is taken where it is sent. A receiver takes it only if the sender's egress is not captured on this host.
 */
#ifndef ACKTRAIL_PACKETS_H
#define ACKTRAIL_PACKETS_H

#include "evidence.h"

#define PEER_SEARCHES 64 /* packets for which the other end is looked for each time; then for one in as many */
#define LARGEST_CHUNK 65536
#define LARGEST_PACKET (8 * LARGEST_CHUNK) /* BIG TCP's limit; what is longer is counted as skipped */

/* The same n, written so that every verifier sees 1 <= n <= max (a power of two): 6.1 learns nothing from "n != 0". */
static __always_inline __u32 bounded(__u32 n, __u32 max)
{
	asm volatile(""
		     : "+r"(n));
	return ((n - 1) & (max - 1)) + 1;
}

static __always_inline void count_unreadable(void)
{
	struct counters *c = own_counters();

	if (c)
		__sync_fetch_and_add(&c->unreadable_packets, 1);
}

static __always_inline void count_untracked(void)
{
	struct counters *c = own_counters();

	if (c)
		__sync_fetch_and_add(&c->untracked_sockets, 1);
}

static __always_inline void count_sampled_out(void)
{
	struct counters *c = own_counters();

	if (c)
		__sync_fetch_and_add(&c->sampled_out_packets, 1);
}

static __always_inline void fill_segment(struct segment_record *r, struct packet *p, struct socket_state *s, __u32 offset,
					 __u32 captured)
{
	fill_head(&r->head, RECORD_SEGMENT, s->cookie);
	r->head.direction = p->direction;
	r->sequence = p->sequence;
	r->acknowledged = p->acknowledged;
	r->length = p->length;
	r->offset = offset;
	r->captured = captured;
	r->lost = s->lost[p->direction & 1];
	if (captured == LARGEST_CHUNK && offset + captured < p->length && offset + captured < LARGEST_PACKET)
		r->head.flags = SEGMENT_MORE;
}

/*
 * Copies `captured` bytes from `offset` on into one record with room for SIZE bytes; false if they are lost. One function
 * per size, without a loop, because a reservation's size must be a constant.
 */
#define DEFINE_EMIT(SIZE)                                                                                        \
	static __always_inline bool emit_##SIZE(struct __sk_buff *skb, struct packet *p, struct socket_state *s, \
						__u32 offset, __u32 captured)                                    \
	{                                                                                                        \
		struct {                                                                                         \
			struct segment_record segment;                                                           \
			__u8 bytes[SIZE];                                                                        \
		} *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);                                                \
                                                                                                                 \
		if (!r) {                                                                                        \
			__sync_fetch_and_add(&s->lost[p->direction & 1], 1);                                     \
			count_ring_full(captured);                                                               \
			return false;                                                                            \
		}                                                                                                \
		fill_segment(&r->segment, p, s, offset, captured);                                               \
		if (bpf_skb_load_bytes(skb, p->payload + offset, r->bytes, bounded(captured, SIZE))) {           \
			bpf_ringbuf_discard(r, BPF_RB_NO_WAKEUP);                                                \
			__sync_fetch_and_add(&s->lost[p->direction & 1], 1);                                     \
			count_unreadable();                                                                      \
			return false;                                                                            \
		}                                                                                                \
		bpf_ringbuf_submit(r, wake_flags());                                                             \
		return true;                                                                                     \
	}
DEFINE_EMIT(256)
DEFINE_EMIT(1024)
DEFINE_EMIT(4096)
DEFINE_EMIT(16384)
DEFINE_EMIT(32768)
DEFINE_EMIT(65536)

/*
 * Copies the packet's payload from `offset` to `end`, or as much of it as a record holds. How many bytes of it are in the
 * ring: the whole of it, or 0.
 */
__noinline __u32 emit(struct __sk_buff *skb, struct packet *p, struct socket_state *s, __u32 offset, __u32 end)
{
	__u32 n = end - offset;
	bool emitted;

	if (!p || !s || end <= offset)
		return 0;
	if (n > LARGEST_CHUNK)
		n = LARGEST_CHUNK;
	if (n <= 256)
		emitted = emit_256(skb, p, s, offset, n);
	else if (n <= 1024)
		emitted = emit_1024(skb, p, s, offset, n);
	else if (n <= 4096)
		emitted = emit_4096(skb, p, s, offset, n);
	else if (n <= 16384)
		emitted = emit_16384(skb, p, s, offset, n);
	else if (n <= 32768)
		emitted = emit_32768(skb, p, s, offset, n);
	else
		emitted = emit_65536(skb, p, s, offset, n);
	return emitted ? n : 0;
}

/* More than a record holds: BIG TCP, and loopback packets of recent kernels. */
static __always_inline __u32 emit_big(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	__u32 captured = 0;

	for (__u32 offset = 0; offset < LARGEST_PACKET; offset += LARGEST_CHUNK) {
		if (offset >= p->length)
			break;
		captured += emit(skb, p, s, offset, p->length);
	}
	return captured;
}

/* Copies a packet of a watched socket, and counts it: payload = captured + skipped + what did not fit into the ring. */
__noinline int take(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct counters *c = own_counters();
	__u32 captured;

	if (!p || !s || !c)
		return 0;
	if (p->length <= LARGEST_CHUNK)
		captured = emit(skb, p, s, 0, p->length);
	else
		captured = emit_big(skb, p, s);
	__sync_fetch_and_add(&c->packets, 1);
	__sync_fetch_and_add(&c->payload_bytes, p->length);
	__sync_fetch_and_add(&c->captured_bytes, captured);
	if (p->length > LARGEST_PACKET)
		__sync_fetch_and_add(&c->skipped_bytes, p->length - LARGEST_PACKET);
	return 0;
}

/*
 * Whether this end leaves the packet to the other one. Usually that is so for what it receives. Where addresses are
 * translated between the two, userspace could not see that they are one connection: then one end takes both directions,
 * the client's, and the other retires.
 */
static __noinline bool left_to_peer(struct bpf_sock *sk, struct packet *p, struct socket_state *s)
{
	struct tcp_sock *tp;
	struct taken *peer;

	if (s->flags & STATE_PEER_CAPTURED)
		return p->direction == INGRESS;
	if (s->flags & STATE_PEER_FOUND)
		return false;
	if (s->searches++ >= PEER_SEARCHES && s->searches % PEER_SEARCHES)
		return false;
	peer = find_peer(s);
	if (!peer)
		return false;
	s->flags |= STATE_PEER_FOUND;
	if (peer->connection == s->connection) {
		s->flags |= STATE_PEER_CAPTURED;
		return p->direction == INGRESS;
	}
	if (keeps_both_directions(s, peer))
		return false;
	unlist_egress(s);
	s->verdict = VERDICT_IGNORE;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && s->announced)
		report_closed(tp, s);
	s->announced = 0;
	return true;
}

/* Decides about a socket that has payload on its way, by the rules or by that payload. NULL: it is not to be watched. */
static __always_inline struct socket_state *settle(struct __sk_buff *skb, struct bpf_sock *sk, struct packet *p)
{
	struct socket_state *s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct tcp_sock *tp;

	if (!s) {
		count_untracked();
		return NULL;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return NULL;
	if (s->generation != control.rules_generation) {
		s->cookie = bpf_get_socket_cookie(skb);
		decide(tp, s);
	}
	if (s->verdict == VERDICT_UNKNOWN)
		weigh(skb, p, tp, s);
	if (s->verdict != VERDICT_WATCH)
		return NULL;
	if (!s->announced)
		announce(tp, s);
	return s;
}

/* Whether one look-up is enough: the packet's socket is ignored, or its other end takes what it receives. */
static __always_inline bool uninteresting(struct socket_state *s, __u32 direction)
{
	if (s->generation != control.rules_generation)
		return false;
	if (s->verdict == VERDICT_IGNORE) {
		if (s->flags & STATE_SAMPLED_OUT)
			count_sampled_out();
		return true;
	}
	return direction == INGRESS && s->flags & STATE_PEER_CAPTURED && s->announced;
}

static __always_inline void tap(struct __sk_buff *skb, __u32 direction)
{
	struct bpf_sock *sk = skb->sk;
	struct packet p = {.direction = direction};
	struct socket_state *s;
	int parsed;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP || sk->state == BPF_TCP_LISTEN)
		return;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (s && uninteresting(s, direction))
		return;
	parsed = parse(skb, &p);
	if (parsed == PARSED_NOTHING)
		return;
	if (parsed == PARSED_UNREADABLE) {
		if (s && s->verdict == VERDICT_WATCH)
			count_unreadable();
		return;
	}
	if (!s || s->generation != control.rules_generation || s->verdict != VERDICT_WATCH || !s->announced)
		s = settle(skb, sk, &p);
	if (s && !left_to_peer(sk, &p, s))
		take(skb, &p, s);
}

SEC("cgroup_skb/egress")
int acktrail_out(struct __sk_buff *skb)
{
	tap(skb, EGRESS);
	return 1;
}

SEC("cgroup_skb/ingress")
int acktrail_in(struct __sk_buff *skb)
{
	tap(skb, INGRESS);
	return 1;
}

#endif

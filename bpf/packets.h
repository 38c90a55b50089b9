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

#include "batches.h"
#include "evidence.h"

#define PEER_SEARCHES 64 /* packets for which the other end is looked for each time; then for one in as many */

/* Copies what is to be copied of a packet with large bodies or batches. 0: it has none, and nothing is copied here. */
static __always_inline int skip_insides(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	__u32 demand = demand_of(s, p->direction) & (DEMAND_FETCHED | DEMAND_PRODUCED | DEMAND_FLEXIBLE);

	s->batches[p->direction & 1] = demand;
	return demand ? skip_batches(skb, p, s) : skip_bodies(skb, p, s);
}

/* Copies a large packet of a watched socket, or the end of a large body. How many bytes of it are in the ring. */
__noinline __u32 take_large(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	__u32 end;

	if (!p || !s)
		return 0;
	end = p->length < LARGEST_PACKET ? p->length : LARGEST_PACKET;
	p->more = 0;
	p->captured = 0;
	p->skipped = p->length - end;
	if (!may_skip(p, s)) {
		p->captured = emit_range(skb, p, s, 0, end);
	} else {
		if (!skip_insides(skb, p, s))
			p->captured = emit_range(skb, p, s, 0, end);
		/* That walk has taken note of it already. */
		p->announces_body = 0;
	}
	if (p->skipped)
		count_skipped(p->skipped);
	return p->captured;
}

/* Copies a packet of a watched socket, and counts it: payload = captured + skipped + what did not fit into the ring. */
static __always_inline void take(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct counters *c = own_counters();
	__u32 captured;

	if (!c)
		return;
	p->announces_body = 0;
	p->taken = 0;
	if (p->length > SMALL_PACKET || may_skip(p, s))
		captured = take_large(skb, p, s);
	else
		captured = emit_small(skb, p, s) ? p->length : 0;
	__sync_fetch_and_add(&c->packets, 1);
	__sync_fetch_and_add(&c->payload_bytes, p->length);
	__sync_fetch_and_add(&c->captured_bytes, captured);
	if (s->batches[p->direction & 1] & DEMAND_FETCHED && !s->frames[p->direction & 1].known) {
		note_field(skb, p, s);
	} else if (p->announces_body) {
		p->taken = 1;
		skip_bodies(skb, p, s);
	}
}

/*
 * Takes note of a packet that is one confirm and nothing else, so that its being read is not reported. Should the same bytes
 * be the end of a body, its consumer's next read tells instead.
 */
static __always_inline void note_confirm(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	__u8 frame[CONFIRM_BYTES];

	if (p->length != sizeof(frame) || bpf_skb_load_bytes(skb, p->payload, frame, sizeof(frame)))
		return;
	if (frame[0] != FRAME_METHOD || be32(frame + 3) != CONFIRM_BYTES - FRAME_HEAD - 1 ||
	    be32(frame + FRAME_HEAD) != (AMQP_CLASS_BASIC << 16 | AMQP_BASIC_ACK) || frame[CONFIRM_BYTES - 1] != AMQP_FRAME_END)
		return;
	if (s->confirms_to != p->sequence)
		s->confirms_from = p->sequence;
	s->confirms_to = p->sequence + CONFIRM_BYTES;
}

/*
 * Whether this end leaves the packet to the other one. Usually that is so for what it receives. Where addresses are
 * translated between the two, userspace could not see that they are one connection: then one end takes both directions,
 * the client's, and the other retires.
 */
static __noinline bool left_to_peer(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;
	struct taken *peer;

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
	tp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (tp && s->announced)
		report_closed(tp, s);
	s->announced = 0;
	return true;
}

/*
 * Decides about a socket that has payload on its way, by the rules or by that payload, and announces it. NULL: it is not to
 * be watched. `s`: what is known about it, if anything.
 */
static __noinline struct socket_state *settle(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;

	if (!sk)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP || sk->state == BPF_TCP_LISTEN)
		return NULL;
	if (!s)
		s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
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

static __noinline void unreadable(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct socket_state *s = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : NULL;

	if (s && s->verdict == VERDICT_WATCH)
		count_unreadable();
}

/* What is known about a packet's socket if the packet is to be looked at; the usual packet costs one look-up. */
static __always_inline struct socket_state *interesting(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock *sk = skb->sk;
	struct socket_state *s;

	/* The socket's ports: those in the packet may be translated ones. */
	if (!sk || ports_exclude(sk->src_port, bpf_ntohs(sk->dst_port)))
		return NULL;
	/* Only full TCP sockets have a state. */
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!s || s->generation != control.rules_generation)
		return settle(skb, p, s);
	if (s->verdict == VERDICT_IGNORE) {
		if (s->flags & STATE_SAMPLED_OUT)
			count_sampled_out();
		return NULL;
	}
	if (s->verdict != VERDICT_WATCH || !s->announced)
		return settle(skb, p, s);
	return s;
}

static __always_inline void tap(struct __sk_buff *skb, __u32 direction)
{
	struct packet p = {.direction = direction};
	struct socket_state *s;
	int parsed;

	parsed = parse(skb, &p);
	if (parsed == PARSED_NOTHING)
		return;
	if (parsed == PARSED_UNREADABLE)
		return unreadable(skb);
	s = interesting(skb, &p);
	if (!s)
		return;
	if (direction == INGRESS && !(s->flags & STATE_BROKER_END))
		note_confirm(skb, &p, s);
	if (direction == INGRESS && s->flags & STATE_PEER_CAPTURED)
		return;
	if (!(s->flags & (STATE_PEER_CAPTURED | STATE_PEER_FOUND)) && left_to_peer(skb, &p, s))
		return;
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

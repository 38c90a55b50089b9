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
#include "skip.h"

#define PEER_SEARCHES 64 /* packets for which the other end is looked for each time; then for one in as many */

/* Copies a packet of a watched socket, and counts it: payload = captured + skipped + what did not fit into the ring. */
__noinline int take(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct counters *c = own_counters();
	__u32 end;

	if (!p || !s || !c)
		return 0;
	end = p->length < LARGEST_PACKET ? p->length : LARGEST_PACKET;
	p->more = 0;
	p->captured = 0;
	p->skipped = p->length - end;
	if (!may_skip(skb, p, s) || !skip_bodies(skb, p, s))
		p->captured = emit_range(skb, p, s, 0, end);
	__sync_fetch_and_add(&c->packets, 1);
	__sync_fetch_and_add(&c->payload_bytes, p->length);
	__sync_fetch_and_add(&c->captured_bytes, p->captured);
	if (p->skipped)
		__sync_fetch_and_add(&c->skipped_bytes, p->skipped);
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

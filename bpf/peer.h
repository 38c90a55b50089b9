/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Finding the other end of a connection on the same host, so that each byte is copied once. */
#ifndef ACKTRAIL_PEER_H
#define ACKTRAIL_PEER_H

#include "maps.h"

/*
 * Where the streams of a connection began that is older than the capture: the counters of RFC 4898 say how many bytes ago.
 * For a client `bytes_acked` includes its SYN (tcp_rcv_synsent_state_process), so its first byte is one further on; who is
 * the client is not known here, hence two candidates for `send_start` wherever it is not exact.
 */
static __always_inline void estimate_starts(struct tcp_sock *tp, struct socket_state *s)
{
	s->send_start = tp->snd_una - (__u32)tp->bytes_acked;
	s->receive_start = tp->rcv_nxt - (__u32)tp->bytes_received;
}

/* Global functions (see packet.h); what they return means nothing. */
__noinline int list_egress(struct socket_state *s)
{
	struct taken taken = {};
	struct flow flow;

	if (!s)
		return 0;
	taken.cookie = s->cookie;
	taken.connection = s->connection;
	taken.broker_end = !!(s->flags & STATE_BROKER_END);
	flow.sender_start = s->send_start;
	flow.receiver_start = s->receive_start;
	bpf_map_update_elem(&captured_egress, &flow, &taken, BPF_ANY);
	if (!(s->flags & STATE_FROM_START)) {
		flow.sender_start++;
		bpf_map_update_elem(&captured_egress, &flow, &taken, BPF_ANY);
	}
	s->flags |= STATE_LISTED;
	return 0;
}

__noinline int unlist_egress(struct socket_state *s)
{
	struct flow flow;

	if (!s || !(s->flags & STATE_LISTED))
		return 0;
	flow.sender_start = s->send_start;
	flow.receiver_start = s->receive_start;
	bpf_map_delete_elem(&captured_egress, &flow);
	if (!(s->flags & STATE_FROM_START)) {
		flow.sender_start++;
		bpf_map_delete_elem(&captured_egress, &flow);
	}
	s->flags &= ~STATE_LISTED;
	return 0;
}

/* The end that sends what this one receives, if its egress is captured. */
static __always_inline struct taken *find_peer(struct socket_state *s)
{
	struct flow flow = {.sender_start = s->receive_start, .receiver_start = s->send_start};
	struct taken *peer = bpf_map_lookup_elem(&captured_egress, &flow);

	if (peer || s->flags & STATE_FROM_START)
		return peer;
	flow.receiver_start++;
	return bpf_map_lookup_elem(&captured_egress, &flow);
}

/* Which of two ends takes both directions. Both come to the same answer: the client, or else the older socket. */
static __always_inline bool keeps_both_directions(struct socket_state *s, struct taken *peer)
{
	bool broker_end = s->flags & STATE_BROKER_END;

	return broker_end != !!peer->broker_end ? !broker_end : s->cookie < peer->cookie;
}

#endif

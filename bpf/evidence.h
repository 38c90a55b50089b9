/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Whether a packet proves AMQP or Kafka. Only for sockets that no rule decides, only in discovery, and only for their first
 * packets: a connection seen from birth is settled by its first bytes, an older one gets UNDECIDED_PACKETS chances to show
 * a method frame at a packet's start with every field in place, its end octet included, or a packet that is one request.
 */
#ifndef ACKTRAIL_EVIDENCE_H
#define ACKTRAIL_EVIDENCE_H

#include "amqp.h"
#include "kafka.h"
#include "packet.h"
#include "socket.h"

#define UNDECIDED_PACKETS 64

enum evidence {
	EVIDENCE_NONE,
	EVIDENCE_AMQP,
	EVIDENCE_KAFKA, /* a request: its sender is the client */
	EVIDENCE_OTHER, /* certainly neither */
};

/* A whole method frame of class basic at the packet's start. */
static __always_inline bool begins_with_basic_method(struct __sk_buff *skb, struct packet *p)
{
	__u8 head[11], end;
	__u32 size;

	if (p->length < sizeof(head) + 1 || bpf_skb_load_bytes(skb, p->payload, head, sizeof(head)))
		return false;
	size = (__u32)head[3] << 24 | head[4] << 16 | head[5] << 8 | head[6];
	if (head[0] != FRAME_METHOD || size < 4 || size > p->length - 8)
		return false;
	if (head[7] || head[8] != AMQP_CLASS_BASIC || !is_basic_method(head[9] << 8 | head[10]))
		return false;
	return !bpf_skb_load_bytes(skb, p->payload + 7 + size, &end, 1) && end == AMQP_FRAME_END;
}

/* The protocol header that a client says first: "AMQP", then which AMQP. Other versions are watched so that they are named. */
static __always_inline bool is_protocol_header(struct __sk_buff *skb, struct packet *p)
{
	__u32 said;

	return p->length >= sizeof(said) && !bpf_skb_load_bytes(skb, p->payload, &said, sizeof(said)) &&
	       said == bpf_htonl(0x414d5150);
}

/* What a packet's first bytes are: an enum evidence. `first`: they are the first of the connection. */
__noinline int evidence_of(struct __sk_buff *skb, struct packet *p, bool first)
{
	if (!p)
		return EVIDENCE_NONE;
	if (is_kafka_request(skb, p, first))
		return EVIDENCE_KAFKA;
	if (first)
		return is_protocol_header(skb, p) ? EVIDENCE_AMQP : EVIDENCE_OTHER;
	if (p->length == 8 && is_protocol_header(skb, p))
		return EVIDENCE_AMQP;
	return begins_with_basic_method(skb, p) ? EVIDENCE_AMQP : EVIDENCE_NONE;
}

/* Its bytes proved a broker's protocol. If they were its first, they also say who the client is. */
static __always_inline void prove(struct packet *p, struct tcp_sock *tp, struct socket_state *s, bool first)
{
	struct sock_common *sk = &((struct sock *)tp)->__sk_common;

	if (first && p->direction == EGRESS) {
		begin_streams(s, ORIGIN_CONNECTED, p->sequence, tp->copied_seq);
		s->broker_port = bpf_ntohs(sk->skc_dport);
	} else if (first) {
		begin_streams(s, ORIGIN_ACCEPTED, tp->snd_nxt, p->sequence);
		s->broker_port = sk->skc_num;
		s->flags |= STATE_BROKER_END;
	}
	s->flags |= STATE_PROVEN;
	s->verdict = VERDICT_WATCH;
	list_egress(s);
}

static __always_inline __u16 broker_of_request(struct packet *p, struct tcp_sock *tp)
{
	struct sock_common *sk = &((struct sock *)tp)->__sk_common;

	return p->direction == EGRESS ? bpf_ntohs(sk->skc_dport) : sk->skc_num;
}

/* Settles an undecided socket, or lets it wait for its next packet. */
static __always_inline void weigh(struct __sk_buff *skb, struct packet *p, struct tcp_sock *tp, struct socket_state *s)
{
	bool first = !tp->bytes_received && tp->bytes_sent == (p->direction == EGRESS ? p->length : 0);
	int evidence = evidence_of(skb, p, first);

	if (evidence == EVIDENCE_KAFKA)
		s->broker_port = broker_of_request(p, tp);
	if (evidence == EVIDENCE_AMQP || evidence == EVIDENCE_KAFKA)
		prove(p, tp, s, first);
	else if (evidence == EVIDENCE_OTHER || ++s->undecided_packets >= UNDECIDED_PACKETS)
		s->verdict = VERDICT_IGNORE;
}

#endif

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where a packet's TCP payload is. cgroup_skb packets begin at the IP header. */
#ifndef ACKTRAIL_PACKET_H
#define ACKTRAIL_PACKET_H

#include "maps.h"

#define IPV6_EXTENSIONS 6 /* headers followed before TCP; a packet with more is counted as unreadable */

struct packet {
	__u32 payload; /* offset in the packet */
	__u32 length;  /* of the payload */
	__u32 sequence;
	__u32 acknowledged;
	__u32 direction;
	/* What becomes of it. */
	__u32 end;  /* of the range that is being copied */
	__u32 more; /* another range follows */
	__u32 announces_body;
	__u32 taken; /* all of it is copied: what its frames say is only taken note of */
	__u32 captured;
	__u32 skipped;
};

enum parsed {
	PARSED_PAYLOAD,
	PARSED_NOTHING, /* not TCP, or without payload */
	PARSED_UNREADABLE,
};

/* Behind hop-by-hop (0), routing (43), destination (60) options and an authentication header (51). */
static __always_inline __u32 skip_ipv6_extensions(struct __sk_buff *skb, __u8 next)
{
	__u32 offset = sizeof(struct ipv6hdr);

	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		__u8 extension[2];

		if (next == IPPROTO_TCP)
			return offset;
		if (next != 0 && next != 43 && next != 51 && next != 60)
			return 0;
		if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
			return 0;
		offset += next == 51 ? (extension[1] + 2) * 4 : (extension[1] + 1) * 8;
		next = extension[0];
	}
	return 0;
}

/* The payload behind this TCP header. */
static __always_inline int found_tcp(struct __sk_buff *skb, struct packet *p, struct tcphdr *tcp, __u32 offset)
{
	offset += tcp->doff * 4;
	if (skb->len <= offset)
		return PARSED_NOTHING;
	p->payload = offset;
	p->length = skb->len - offset;
	p->sequence = bpf_ntohl(tcp->seq) + tcp->syn;
	p->acknowledged = tcp->ack ? bpf_ntohl(tcp->ack_seq) : 0;
	return PARSED_PAYLOAD;
}

/*
 * Finds the payload behind options and extension headers. A global function, as others here and in packets.h: the verifier
 * looks at it once and by itself, and not again for each way that leads there, which 6.1 does not finish.
 */
__noinline int parse_any(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct tcphdr *tcp;
	__u32 offset;

	if (!p)
		return PARSED_NOTHING;
	if (data + sizeof(struct iphdr) > end)
		return PARSED_UNREADABLE;
	if (*(__u8 *)data >> 4 == 4) {
		if (((struct iphdr *)data)->protocol != IPPROTO_TCP)
			return PARSED_NOTHING;
		offset = (*(__u8 *)data & 15) * 4;
	} else {
		if (data + sizeof(struct ipv6hdr) > end)
			return PARSED_UNREADABLE;
		offset = skip_ipv6_extensions(skb, ((struct ipv6hdr *)data)->nexthdr);
		if (!offset)
			return PARSED_UNREADABLE;
	}
	/* The kernel has pulled the headers into the linear part, on both ways; the mask is for the verifier. */
	tcp = data + (offset & 0x3fff);
	if ((void *)(tcp + 1) > end)
		return PARSED_UNREADABLE;
	return found_tcp(skb, p, tcp, offset);
}

/* Finds the payload: an enum parsed. Most packets have no options, and most of those without payload end here. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ipv4 = data;
	struct ipv6hdr *ipv6 = data;

	if (data + sizeof(*ipv4) + sizeof(struct tcphdr) > end)
		return parse_any(skb, p);
	if (*(__u8 *)data == 0x45)
		return ipv4->protocol == IPPROTO_TCP ? found_tcp(skb, p, (void *)(ipv4 + 1), sizeof(*ipv4)) : PARSED_NOTHING;
	if (*(__u8 *)data >> 4 == 6 && ipv6->nexthdr == IPPROTO_TCP && (void *)(ipv6 + 1) + sizeof(struct tcphdr) <= end)
		return found_tcp(skb, p, (void *)(ipv6 + 1), sizeof(*ipv6));
	return parse_any(skb, p);
}

#endif

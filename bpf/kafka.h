/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* As much of Kafka's requests as the kernel has to know to recognise one (RequestHeader.json). */
#ifndef ACKTRAIL_KAFKA_H
#define ACKTRAIL_KAFKA_H

#include "amqp.h"
#include "packet.h"

#define REQUEST_HEAD 14 /* size, API key and version, correlation id, length of the client id */
#define LARGEST_API 94	/* of 4.4.0 (org.apache.kafka.common.protocol.ApiKeys) */
#define LARGEST_VERSION 20
#define LONGEST_CLIENT_ID 255
#define CLIENT_ID_BYTES 4 /* of a client id, that have to be readable */

/* What clients say first: ApiVersions, a login, or, the oldest of them, Metadata. */
static __always_inline bool is_greeting(__u16 api)
{
	return api == 18 || api == 17 || api == 3;
}

/* Whether a packet is one whole request, of a client that gives a name unless this is the first that it says. */
static __always_inline bool is_kafka_request(struct __sk_buff *skb, struct packet *p, bool first)
{
	__u8 head[REQUEST_HEAD + CLIENT_ID_BYTES];
	__u16 api, version, name;

	if (p->length < sizeof(head) || bpf_skb_load_bytes(skb, p->payload, head, sizeof(head)))
		return false;
	api = head[4] << 8 | head[5];
	version = head[6] << 8 | head[7];
	name = head[12] << 8 | head[13];
	if (be32(head) != p->length - 4 || api > LARGEST_API || version > LARGEST_VERSION)
		return false;
	if (name == 0xffff || name < CLIENT_ID_BYTES)
		return first && is_greeting(api);
	if (name > LONGEST_CLIENT_ID || REQUEST_HEAD + name > p->length)
		return false;
	for (int i = 0; i < CLIENT_ID_BYTES; i++) {
		if (head[REQUEST_HEAD + i] < ' ' || head[REQUEST_HEAD + i] > '~')
			return false;
	}
	return true;
}

#endif

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Copying payload into the ring. */
#ifndef ACKTRAIL_SEGMENT_H
#define ACKTRAIL_SEGMENT_H

#include "amqp.h"
#include "packet.h"
#include "ring.h"

#define LARGEST_CHUNK 65536
#define SMALL_PACKET 1024
#define LARGEST_PACKET (8 * LARGEST_CHUNK) /* BIG TCP's limit; what is longer is counted as skipped */

/* The same n, written so that every verifier sees 1 <= n <= max (a power of two): 6.1 learns nothing from "n != 0". */
static __always_inline __u32 bounded(__u32 n, __u32 max)
{
	asm volatile(""
		     : "+r"(n));
	return ((n - 1) & (max - 1)) + 1;
}

static __noinline void lose(struct packet *p, struct socket_state *s, __u32 bytes)
{
	__sync_fetch_and_add(&s->lost[p->direction & 1], 1);
	count_ring_full(bytes);
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
	if (p->more || offset + captured < p->end)
		r->head.flags = SEGMENT_MORE;
}

/*
 * Whether the last of `length` bytes in a record are an end octet and the head of a large body frame behind it: clients that
 * buffer small writes and let large ones through send the body in packets of its own.
 */
static __always_inline bool announces_body(const __u8 *bytes, __u32 length, __u32 room)
{
	__u32 at = length - BODY_ANNOUNCED;

	/* So that the comparison stays, and the verifier knows the range of what is added. */
	barrier_var(at);
	if (at > room - BODY_ANNOUNCED)
		return false;
	bytes += at;
	return bytes[0] == AMQP_FRAME_END && bytes[1] == FRAME_BODY && control.skip_from_bytes &&
	       be32(bytes + 4) >= control.skip_from_bytes;
}

/*
 * Copies `captured` bytes from `offset` on into one record with room for SIZE bytes; false if they are lost. One function
 * per size, without a loop, because a reservation's size must be a constant.
 */
#define DEFINE_EMIT(SIZE)                                                                                              \
	static __always_inline bool emit_##SIZE(struct __sk_buff *skb, struct packet *p, struct socket_state *s,       \
						__u32 offset, __u32 captured)                                          \
	{                                                                                                              \
		struct {                                                                                               \
			struct segment_record segment;                                                                 \
			__u8 bytes[SIZE];                                                                              \
		} *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);                                                      \
                                                                                                                       \
		if (!r) {                                                                                              \
			lose(p, s, captured);                                                                          \
			return false;                                                                                  \
		}                                                                                                      \
		fill_segment(&r->segment, p, s, offset, captured);                                                     \
		if (bpf_skb_load_bytes(skb, p->payload + offset, r->bytes, bounded(captured, SIZE))) {                 \
			bpf_ringbuf_discard(r, BPF_RB_NO_WAKEUP);                                                      \
			lose(p, s, 0);                                                                                 \
			count_unreadable();                                                                            \
			return false;                                                                                  \
		}                                                                                                      \
		p->announces_body = announces_body(r->bytes, captured, SIZE);                                          \
		bpf_ringbuf_submit(r, SIZE <= 1024 ? wake_flags_now_and_then(r->segment.head.time_ns) : wake_flags()); \
		return true;                                                                                           \
	}
DEFINE_EMIT(64)
DEFINE_EMIT(128)
DEFINE_EMIT(256)
DEFINE_EMIT(512)
DEFINE_EMIT(1024)
DEFINE_EMIT(2048)
DEFINE_EMIT(4096)
DEFINE_EMIT(8192)
DEFINE_EMIT(16384)
DEFINE_EMIT(32768)
DEFINE_EMIT(65536)

/* Copies the payload of a small packet. */
static __always_inline bool emit_small(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	__u32 n = p->length;

	p->more = 0;
	p->end = n;
	if (n <= 64)
		return emit_64(skb, p, s, 0, n);
	if (n <= 128)
		return emit_128(skb, p, s, 0, n);
	if (n <= 256)
		return emit_256(skb, p, s, 0, n);
	if (n <= 512)
		return emit_512(skb, p, s, 0, n);
	return emit_1024(skb, p, s, 0, n);
}

/* A record without bytes: the packet passed, and all of it is inside of a body. */
static __always_inline void emit_none(struct packet *p, struct socket_state *s)
{
	struct segment_record *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);

	if (!r) {
		lose(p, s, 0);
		return;
	}
	fill_segment(r, p, s, 0, 0);
	bpf_ringbuf_submit(r, wake_flags());
}

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
	if (n <= 1024)
		emitted = emit_1024(skb, p, s, offset, n);
	else if (n <= 2048)
		emitted = emit_2048(skb, p, s, offset, n);
	else if (n <= 4096)
		emitted = emit_4096(skb, p, s, offset, n);
	else if (n <= 8192)
		emitted = emit_8192(skb, p, s, offset, n);
	else if (n <= 16384)
		emitted = emit_16384(skb, p, s, offset, n);
	else if (n <= 32768)
		emitted = emit_32768(skb, p, s, offset, n);
	else
		emitted = emit_65536(skb, p, s, offset, n);
	return emitted ? n : 0;
}

/* The same for ranges of any length: packets above 64 KiB (BIG TCP, loopback of recent kernels) take several records. */
__noinline __u32 emit_range(struct __sk_buff *skb, struct packet *p, struct socket_state *s, __u32 offset, __u32 end)
{
	__u32 captured = 0;

	if (!p || !s)
		return 0;
	p->end = end;
	for (__u32 chunk = 0; chunk < LARGEST_PACKET / LARGEST_CHUNK; chunk++) {
		if (offset >= end)
			break;
		captured += emit(skb, p, s, offset, end);
		offset += LARGEST_CHUNK;
	}
	return captured;
}

#endif

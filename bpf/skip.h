/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Leaving the insides of large message bodies out: copying costs about 100 µs a megabyte here and as much in userspace, and
 * nobody reads what is behind a body's first bytes.
 *
 * Bytes are left out only where frames prove that they are a body: a content header gave its size, the body frame has its
 * channel and fits into that size, and every frame before was followed from end octet to end octet, beginning with a whole
 * method frame of class basic at a packet's start. Frame heads, the first KEPT_BYTES of each body and all that is not proven
 * are copied. What a packet leaves behind is kept per socket and direction by sequence number, so retransmissions and gaps
 * do no harm: where a packet does not go on from there, all is copied again until a packet begins with such a method.
 *
 * One frame is one call of a global function: the verifier sees its branches once, not once per frame.
 */
#ifndef ACKTRAIL_SKIP_H
#define ACKTRAIL_SKIP_H

#include "amqp.h"
#include "segment.h"

#define KEPT_BYTES 1024	     /* of each body: what userspace tells twins apart by */
#define LEAST_SKIPPED 2048   /* a hole costs a record of its own: less is copied */
#define FRAMES_PER_PACKET 48 /* frames followed in a packet; with more, what is behind them is copied */
#define FRAMES_IN_VAIN 6     /* the same for a stream whose messages have been small lately */
#define PACKETS_IN_VAIN 8    /* lately: so many packets without anything to leave out; one in 16 is followed all the same */
#define LARGEST_FRAME (1 << 28)

enum expectation {
	EXPECTS_ANY,	/* a frame begins here */
	EXPECTS_START,	/* perhaps: only a method frame of class basic would prove it */
	EXPECTS_HEADER, /* the content header of `channel` */
	EXPECTS_BODY,	/* a body frame of `channel` */
	EXPECTS_BATCH,	/* no frame: a batch of Kafka's (batches.h) */
};

/* A walk over the frames of one packet. */
struct walk {
	__u64 body_left;
	__u32 at;     /* offset of the next frame in the payload */
	__u32 copied; /* everything before is copied, or left out */
	__u16 channel;
	__u16 keep;
	__u8 expects;
	__u8 done; /* nothing is left to copy */
	__u16 pad;
	__u32 size; /* of the batch at `at`, if it is known (batches.h) */
};

static __always_inline bool ends_frame(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u8 octet;

	return !bpf_skb_load_bytes(skb, p->payload + offset, &octet, 1) && octet == AMQP_FRAME_END;
}

/* The next frame begins at `next` in the payload, perhaps in a later packet; from `from` on, all before it is body. */
static __always_inline void remember(struct packet *p, struct socket_state *s, struct walk *w, __u32 from, __u32 next)
{
	struct frames *f = &s->frames[p->direction & 1];

	f->body_left = w->body_left;
	f->next = p->sequence + next;
	f->from = p->sequence + from;
	f->channel = w->channel;
	f->keep = w->keep;
	f->expects = w->expects;
	f->known = 1;
	s->skipping[p->direction & 1] = from != next;
}

/* Copies up to `end`, and leaves out what is between there and `resume`. */
static __always_inline void leave_out(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w,
				      __u32 end, __u32 resume)
{
	if (p->taken)
		return;
	p->more = resume < p->length;
	if (end > w->copied)
		p->captured += emit_range(skb, p, s, w->copied, end);
	else if (!p->more)
		emit_none(p, s);
	p->skipped += resume - end;
	w->copied = resume;
}

/* A whole method frame: does content follow? False if it proves nothing. */
static __always_inline bool walk_method(struct __sk_buff *skb, struct packet *p, struct walk *w, __u32 size)
{
	__u8 ids[4];
	__u16 method;
	bool basic;

	if (size < sizeof(ids) || bpf_skb_load_bytes(skb, p->payload + w->at + FRAME_HEAD, ids, sizeof(ids)))
		return false;
	method = ids[2] << 8 | ids[3];
	basic = !ids[0] && ids[1] == AMQP_CLASS_BASIC;
	if (w->expects == EXPECTS_START && !(basic && is_basic_method(method)))
		return false;
	/* publish, return, deliver, get-ok */
	w->expects = basic && (method == 40 || method == 50 || method == 60 || method == 71) ? EXPECTS_HEADER : EXPECTS_ANY;
	return true;
}

/* A whole content header: class, weight, the body's size. */
static __always_inline bool walk_header(struct __sk_buff *skb, struct packet *p, struct walk *w, __u32 size)
{
	__u8 head[12];

	if (size < sizeof(head) || bpf_skb_load_bytes(skb, p->payload + w->at + FRAME_HEAD, head, sizeof(head)))
		return false;
	w->body_left = (__u64)be32(head + 4) << 32 | be32(head + 8);
	w->keep = KEPT_BYTES;
	w->expects = w->body_left ? EXPECTS_BODY : EXPECTS_ANY;
	return true;
}

/* A body frame of a content whose size is known, of which perhaps only the beginning is in this packet. */
static __always_inline bool walk_body(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w,
				      __u32 size)
{
	__u32 body = w->at + FRAME_HEAD, keep = size < w->keep ? size : w->keep;
	__u32 from = body + keep, end = body + size; /* the end octet's offset */

	if (size > w->body_left)
		return false;
	w->body_left -= size;
	w->keep -= keep;
	w->expects = w->body_left ? EXPECTS_BODY : EXPECTS_ANY;
	if (end < p->length) {
		if (!ends_frame(skb, p, end))
			return false;
		if (end >= from + LEAST_SKIPPED)
			leave_out(skb, p, s, w, from, end);
		return true;
	}
	remember(p, s, w, from, end + 1);
	if (p->length >= from + LEAST_SKIPPED) {
		leave_out(skb, p, s, w, from, p->length);
		w->done = 1;
	}
	return false;
}

/* Any other frame: if it is whole, what it says is taken note of. */
static __always_inline bool walk_other(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w,
				       __u8 type, __u32 size)
{
	__u32 end = w->at + FRAME_HEAD + size;

	if (end >= p->length) {
		if (w->expects == EXPECTS_START)
			return false;
		w->expects = EXPECTS_ANY;
		remember(p, s, w, end + 1, end + 1);
		return false;
	}
	if (!ends_frame(skb, p, end))
		return false;
	if (type == FRAME_METHOD)
		return walk_method(skb, p, w, size);
	if (type == FRAME_HEADER)
		return walk_header(skb, p, w, size);
	w->expects = EXPECTS_ANY;
	return type == FRAME_BODY || type == FRAME_HEARTBEAT;
}

/* One frame; 0 if the walk ends here. */
__noinline int walk_frame(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w)
{
	__u8 head[FRAME_HEAD];
	__u16 channel;
	__u32 size;
	bool goes_on;

	if (!p || !s || !w)
		return 0;
	if (w->at == p->length)
		remember(p, s, w, w->at, w->at);
	if (w->at + FRAME_HEAD > p->length || bpf_skb_load_bytes(skb, p->payload + w->at, head, sizeof(head)))
		return 0;
	channel = head[1] << 8 | head[2];
	size = be32(head + 3);
	if (size > LARGEST_FRAME || (w->expects == EXPECTS_START && head[0] != FRAME_METHOD))
		return 0;
	/* Contents of several channels may alternate: the one that was begun is then followed no further. */
	if (w->expects == EXPECTS_HEADER && (head[0] != FRAME_HEADER || channel != w->channel))
		w->expects = EXPECTS_ANY;
	if (w->expects == EXPECTS_BODY && (head[0] != FRAME_BODY || channel != w->channel))
		w->expects = EXPECTS_ANY;
	if (w->expects == EXPECTS_BODY) {
		goes_on = walk_body(skb, p, s, w, size);
	} else {
		w->channel = channel;
		goes_on = walk_other(skb, p, s, w, head[0], size);
	}
	w->at += FRAME_HEAD + size + 1;
	return goes_on;
}

/* Where the walk begins: behind the body that an earlier packet began, at a frame that it announced, or at the start. */
static __always_inline bool resume(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w)
{
	struct frames *f = &s->frames[p->direction & 1];
	__s32 from = f->from - p->sequence, next = f->next - p->sequence;

	w->expects = EXPECTS_START;
	if (!f->known || f->expects == EXPECTS_BATCH)
		return true;
	if (from < 0)
		from = 0;
	if (next > 0 && (__u32)next > p->length) {
		/* Retransmissions from before it end here too: they are copied, and nothing is forgotten. */
		if ((__s32)p->length < from + LEAST_SKIPPED)
			return false;
		leave_out(skb, p, s, w, from, p->length);
		w->done = 1;
		return true;
	}
	f->known = 0;
	s->skipping[p->direction & 1] = 0;
	if (next < 0 || (next && !ends_frame(skb, p, next - 1)))
		return true;
	if (next > from + LEAST_SKIPPED)
		leave_out(skb, p, s, w, from, next - 1);
	w->at = next;
	w->body_left = f->body_left;
	w->channel = f->channel;
	w->keep = f->keep;
	w->expects = f->expects;
	return true;
}

/* Whether a packet is worth a walk before it is copied: it is large, or it ends a body that is being left out. */
static __always_inline bool may_skip(struct packet *p, struct socket_state *s)
{
	if (!control.skip_from_bytes || p->length > LARGEST_PACKET)
		return false;
	return p->length >= control.skip_from_bytes || s->skipping[p->direction & 1];
}

/* How many steps a walk takes: few in a flow in which packets have had nothing to leave out lately. */
static __always_inline int steps_of_walk(struct frames *f, int most, int in_vain)
{
	return f->in_vain < PACKETS_IN_VAIN || f->in_vain % 16 == 0 ? most : in_vain;
}

/* Ends a walk: what is behind the last part that was left out is copied. 0: none was, and nothing is copied here. */
static __always_inline int end_walk(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w)
{
	struct frames *f = &s->frames[p->direction & 1];

	f->in_vain = w->copied ? 0 : f->in_vain + 1;
	if (w->done)
		return 1;
	if (!w->copied)
		return 0;
	p->more = 0;
	p->captured += emit_range(skb, p, s, w->copied, p->length);
	return 1;
}

/* Copies what is to be copied of a packet with large bodies. 0: it has none, and nothing is copied here. */
__noinline int skip_bodies(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct walk w = {};
	int most;

	if (!p || !s || !resume(skb, p, s, &w))
		return 0;
	most = steps_of_walk(&s->frames[p->direction & 1], FRAMES_PER_PACKET, FRAMES_IN_VAIN);
	for (int frame = 0; frame < FRAMES_PER_PACKET; frame++) {
		if (w.done || frame >= most || !walk_frame(skb, p, s, &w))
			break;
	}
	return end_walk(skb, p, s, &w);
}

#endif

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Leaving the insides of Kafka's record batches out, in flows of which userspace has found that it reads no more of them than
 * their headers (the map `demands`). At full speed megabytes have passed before userspace could say where the next batch
 * begins, so that is decided here.
 *
 * A response to a Fetch request has a field of record batches for each partition. The field says how long it is, and so does
 * each batch; the last one may be cut off by the field's end. The first field is looked for in the first WINDOW_BYTES of a
 * packet, the next one in as many bytes behind the last. A field counts as found where its length stands before a batch header
 * that agrees with itself in six places (org.apache.kafka.common.record.DefaultRecordBatch). In a Produce request each field is
 * one whole batch, as long as it says. Within a field each batch begins where the one before ends. Where that is not so, or a
 * header is not whole, all is copied up to the packet's end.
 *
 * The first KEPT_OF_BATCH bytes of each batch are copied. What a packet leaves behind is kept per socket and direction by
 * sequence number, as in skip.h.
 */
#ifndef ACKTRAIL_BATCHES_H
#define ACKTRAIL_BATCHES_H

#include "skip.h"

#define BATCH_HEADER 61	      /* up to and with the number of records */
#define BATCH_PREFIX 12	      /* offset and length, which the length does not count */
#define KEPT_OF_BATCH 512     /* the header, and of the records enough to see whether they have headers */
#define SMALL_BATCH 4096      /* one of up to this size is copied whole: userspace may keep it (Originals) */
#define BATCHES_PER_PACKET 32 /* followed in a packet; with more, what is behind them is copied */
#define BATCHES_IN_VAIN 2     /* the same where batches have been small lately */
#define WINDOW_BYTES 256
#define LOOKS 12 /* in a window, at CHUNK places each, or as far as what looks like a header */
#define CHUNK 64 /* places of a window that are looked at together */
#define LEAD 9	 /* bytes before a field's first batch that are looked at: a preferred read replica, and the length */
#define LARGEST_FIELD (1 << 30)

static __always_inline __u64 be64(const __u8 *bytes)
{
	return (__u64)be32(bytes) << 32 | be32(bytes + 4);
}

/* The size of the batch that begins with this header; 0 if it is none. */
static __always_inline __u32 batch_size(const __u8 *h)
{
	__u32 length = be32(h + 8), epoch = be32(h + 12), last_delta = be32(h + 23), count = be32(h + 57);
	__u64 producer = be64(h + 43);
	__u16 producer_epoch = h[51] << 8 | h[52];

	if (h[16] != 2 || h[21] || h[0] & 0x80)
		return 0;
	if (length < BATCH_HEADER - BATCH_PREFIX || length > LARGEST_FIELD)
		return 0;
	/* Compaction leaves fewer records than offsets. */
	if (!count || last_delta > LARGEST_FIELD || count > last_delta + 1)
		return 0;
	/* -1: not known. */
	if (epoch != ~0U && epoch > LARGEST_FIELD)
		return 0;
	if (producer == ~0ULL ? producer_epoch != 0xffff : producer >> 62 || producer_epoch & 0x8000)
		return 0;
	return BATCH_PREFIX + length;
}

/* The varint of exactly so many bytes, 0 if these are none. */
static __always_inline __u64 varint(const __u8 *at, int bytes)
{
	__u64 value = at[bytes - 1];

	if (value & 0x80)
		return 0;
	for (int i = bytes - 2; i >= 0; i--) {
		if (!(at[i] & 0x80))
			return 0;
		value = value << 7 | (at[i] & 0x7f);
	}
	return value;
}

/* The same behind a preferred read replica of -1. */
static __always_inline __u64 varint_behind_none(const __u8 *at, int bytes)
{
	return be32(at - 4) == ~0U ? varint(at, bytes) : 0;
}

/*
 * The length of the field of a Fetch response whose first batch is LEAD bytes behind these, 0 if none stands there. In flexible
 * versions (12 and later) it is a varint, one larger, behind a preferred read replica, else a 32-bit integer
 * (FetchResponse.json). A varint may itself begin like the -1 before it: the longest is meant.
 */
static __always_inline __u32 fetched_length(const __u8 *before, bool flexible)
{
	const __u8 *end = before + LEAD;
	__u64 length;

	if (!flexible) {
		/* Behind the replica, or in early versions behind a list of aborted transactions that is empty or absent. */
		length = be32(end - 4);
		return length <= LARGEST_FIELD && (be32(end - 8) == 0 || be32(end - 8) == ~0U) ? length : 0;
	}
	length = varint_behind_none(end - 5, 5);
	if (!length)
		length = varint_behind_none(end - 4, 4);
	if (!length)
		length = varint_behind_none(end - 3, 3);
	if (!length)
		length = varint_behind_none(end - 2, 2);
	return length && length - 1 <= LARGEST_FIELD ? length - 1 : 0;
}

/* Whether this length of a field of a Produce request stands before it, in either form (ProduceRequest.json). */
static __always_inline bool is_produced_length(const __u8 *before, __u32 size)
{
	const __u8 *end = before + LEAD;
	__u64 compact = (__u64)size + 1;

	return be32(end - 4) == size || varint(end - 2, 2) == compact || varint(end - 3, 3) == compact ||
	       varint(end - 4, 4) == compact;
}

/* Cheap enough for each place: whether a batch header may begin here. One branch: the verifier follows each of them. */
static __always_inline bool may_be_header(const __u8 *h)
{
	return !((h[0] & 0x80) | (h[8] & 0xc0) | (h[16] ^ 2) | h[21] | (h[23] & 0xc0) | (h[57] & 0xc0));
}

/*
 * Looks for what may be a batch header at CHUNK places from LEAD bytes behind `w->at` on. If there is one, 1: it begins LEAD
 * bytes behind `w->at`. Else `w->at` is CHUNK further.
 */
__noinline int find_candidate(struct __sk_buff *skb, struct packet *p, struct walk *w)
{
	__u8 bytes[CHUNK + BATCH_HEADER + 3] = {};
	__u32 there;

	if (!p || !w || w->at >= p->length)
		return 0;
	there = p->length - w->at;
	if (there >= LEAD + sizeof(bytes)) {
		if (bpf_skb_load_bytes(skb, p->payload + w->at + LEAD, bytes, sizeof(bytes)))
			return 0;
	} else if (there < LEAD + BATCH_HEADER ||
		   bpf_skb_load_bytes(skb, p->payload + w->at + LEAD, bytes, BATCH_HEADER)) {
		/* Here the packet ends: it was looked into as far as it matters. */
		return 0;
	}
	for (__u32 i = 0; i < CHUNK; i++) {
		if (may_be_header(bytes + i)) {
			w->at += i;
			return 1;
		}
	}
	w->at += CHUNK;
	return 0;
}

/* Whether a field's first batch begins LEAD bytes behind `w->at`. 1: it begins at `w->at` now, else `w->at` is one further. */
__noinline int begin_field(struct __sk_buff *skb, struct packet *p, struct walk *w)
{
	__u8 bytes[LEAD + BATCH_HEADER];
	__u32 size, length;

	if (!p || !w || bpf_skb_load_bytes(skb, p->payload + w->at, bytes, sizeof(bytes)))
		return 0;
	w->at++;
	size = batch_size(bytes + LEAD);
	if (!size)
		return 0;
	if (w->keep & DEMAND_FETCHED)
		length = fetched_length(bytes, w->keep & DEMAND_FLEXIBLE);
	else
		length = is_produced_length(bytes, size) ? size : 0;
	if (length < BATCH_HEADER)
		return 0;
	w->at += LEAD - 1;
	w->body_left = length;
	w->size = size;
	return 1;
}

/*
 * Looks for a field's first batch in the WINDOW_BYTES from `w->at` on: it begins at `w->at` then. First where the last one was
 * found: what is before it is much the same each time.
 */
static __always_inline bool find_field(struct __sk_buff *skb, struct packet *p, struct frames *f, struct walk *w)
{
	__u32 begin = w->at;

	if (f->channel >= LEAD) {
		w->at = begin + f->channel - LEAD;
		if (begin_field(skb, p, w))
			return true;
		w->at = begin;
	}
	for (int look = 0; look < LOOKS; look++) {
		if (w->at >= begin + WINDOW_BYTES)
			return false;
		if (find_candidate(skb, p, w) && begin_field(skb, p, w)) {
			f->channel = w->at - begin;
			return true;
		}
	}
	return false;
}

/*
 * What follows `next`, perhaps in a later packet, is `w->body_left` bytes of a field; from `from` on, all before it is inside
 * of a batch.
 */
static __always_inline void remember_batch(struct packet *p, struct socket_state *s, struct walk *w, __u32 from, __u32 next)
{
	struct frames *f = &s->frames[p->direction & 1];

	f->body_left = w->body_left;
	f->next = p->sequence + next;
	f->from = p->sequence + from;
	f->expects = EXPECTS_BATCH;
	f->known = 1;
	s->skipping[p->direction & 1] = from != next;
}

/* The next batch of the packet; 0 if the walk ends here. */
__noinline int walk_batch(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w)
{
	__u8 header[BATCH_HEADER];
	__u32 size, end, from;

	if (!p || !s || !w)
		return 0;
	/* The rest of a field is too short for a header: another begins behind it. */
	if (w->body_left < BATCH_HEADER) {
		w->at += w->body_left;
		w->body_left = 0;
		if (!find_field(skb, p, &s->frames[p->direction & 1], w))
			return 0;
	} else {
		if (w->at >= p->length || bpf_skb_load_bytes(skb, p->payload + w->at, header, sizeof(header)))
			return 0;
		w->size = batch_size(header);
	}
	size = w->size;
	if (!size)
		return 0;
	if (size > w->body_left)
		size = w->body_left;
	w->body_left -= size;
	end = w->at + size;
	from = size > SMALL_BATCH ? w->at + KEPT_OF_BATCH : end;
	w->at = end;
	if (end < p->length) {
		if (from != end)
			leave_out(skb, p, s, w, from, end);
		return 1;
	}
	remember_batch(p, s, w, from, end);
	if (from < p->length) {
		leave_out(skb, p, s, w, from, p->length);
		w->done = 1;
	}
	return 0;
}

/* Where the walk begins: behind the batch that an earlier packet began, or at the packet's start. False if all is to be copied. */
static __always_inline bool resume_batch(struct __sk_buff *skb, struct packet *p, struct socket_state *s, struct walk *w)
{
	struct frames *f = &s->frames[p->direction & 1];
	__s32 from = f->from - p->sequence, next = f->next - p->sequence;

	if (!f->known || f->expects != EXPECTS_BATCH)
		return true;
	if (from < 0)
		from = 0;
	if (next > 0 && (__u32)next >= p->length) {
		/* Retransmissions from before it end here too: they are copied, and nothing is forgotten. */
		if (from >= (__s32)p->length)
			return false;
		leave_out(skb, p, s, w, from, p->length);
		w->done = 1;
		return true;
	}
	f->known = 0;
	s->skipping[p->direction & 1] = 0;
	if (next < 0)
		return true;
	if (next > from)
		leave_out(skb, p, s, w, from, next);
	w->at = next;
	w->body_left = f->body_left;
	return true;
}

/* Copies what is to be copied of a packet with large batches. 0: it has none, and nothing is copied here. */
__noinline int skip_batches(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct walk w = {};
	int most;

	if (!p || !s || !resume_batch(skb, p, s, &w))
		return 0;
	/* A walk over batches keeps the flow's DEMAND_* flags here. */
	w.keep = s->batches[p->direction & 1];
	most = steps_of_walk(&s->frames[p->direction & 1], BATCHES_PER_PACKET, BATCHES_IN_VAIN);
	for (int batch = 0; batch < BATCHES_PER_PACKET; batch++) {
		if (w.done || batch >= most || !walk_batch(skb, p, s, &w))
			break;
	}
	return end_walk(skb, p, s, &w);
}

/*
 * Takes note of a field whose length ends a packet: brokers write what is before the batches by itself, and send the batches from
 * their file.
 */
__noinline int note_field(struct __sk_buff *skb, struct packet *p, struct socket_state *s)
{
	struct walk w = {};
	__u8 bytes[LEAD];

	if (!p || !s || p->length < LEAD ||
	    bpf_skb_load_bytes(skb, p->payload + p->length - LEAD, bytes, sizeof(bytes)))
		return 0;
	w.body_left = fetched_length(bytes, s->batches[p->direction & 1] & DEMAND_FLEXIBLE);
	if (w.body_left > SMALL_BATCH)
		remember_batch(p, s, &w, p->length, p->length);
	return 0;
}

#endif

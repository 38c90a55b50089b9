/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Waking the reader of the ring, and counting.
 *
 * A wake-up costs eight times what a packet does, so the reader is never woken per record: it says in the control page
 * that it naps or sleeps, and is woken once, when enough waits or for the first record.
 */
#ifndef ACKTRAIL_RING_H
#define ACKTRAIL_RING_H

#include "maps.h"

static __always_inline __u64 wake_flags(void)
{
	volatile __u32 *state = &control.reader_state;
	__u32 now = *state;

	if (now == READER_AWAKE)
		return BPF_RB_NO_WAKEUP;
	if (now == READER_NAPPING && bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) < control.wake_bytes)
		return BPF_RB_NO_WAKEUP;
	*state = READER_AWAKE;
	return BPF_RB_FORCE_WAKEUP;
}

/* For small records: what waits is looked at for one in 16 of them. The low bits of the time are as good as dice. */
static __always_inline __u64 wake_flags_now_and_then(__u64 time_ns)
{
	volatile __u32 *state = &control.reader_state;

	if (*state != READER_ASLEEP && time_ns & 15)
		return BPF_RB_NO_WAKEUP;
	return wake_flags();
}

/* This processor's. Added to atomically: a packet in an interrupt may come between two halves of an addition. */
static __always_inline struct counters *own_counters(void)
{
	__u32 processor = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&counters, &processor);
}

static __always_inline void count_ring_full(__u32 bytes)
{
	struct counters *c = own_counters();

	if (c) {
		__sync_fetch_and_add(&c->ring_full_records, 1);
		__sync_fetch_and_add(&c->ring_full_bytes, bytes);
	}
}

static __always_inline void count_skipped(__u32 bytes)
{
	struct counters *c = own_counters();

	if (c)
		__sync_fetch_and_add(&c->skipped_bytes, bytes);
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

static __always_inline void fill_head(struct record_head *head, enum record_kind kind, __u64 cookie)
{
	__builtin_memset(head, 0, sizeof(*head));
	head->kind = kind;
	head->time_ns = bpf_ktime_get_ns();
	head->cookie = cookie;
}

#endif

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The read tap: tcp_rcv_space_adjust, which the kernel passes whenever an application has taken bytes out of a receive
 * queue (recv, read, splice, io_uring), in that application's context: who read, and how far. A raw tracepoint with BTF
 * costs a few nanoseconds for sockets that are not watched.
 */
#ifndef ACKTRAIL_READS_H
#define ACKTRAIL_READS_H

#include "socket.h"

/*
 * Whether all that was read since the last report are confirms: publishers read them, and nobody asks when. Distances from
 * confirms_from, as sequence numbers have no order of their own: where no confirm came, both ends are 0, and nothing lies between.
 */
static __always_inline bool only_confirms(struct socket_state *s, __u32 copied)
{
	__u32 read_from = s->reported_copied - s->confirms_from;
	__u32 read_to = copied - s->confirms_from;

	return read_from < read_to && read_to <= s->confirms_to - s->confirms_from;
}

/* Each record says where its read began, so that the one behind a lost one tells which bytes that one had taken. */
static __always_inline void report_read(struct socket_state *s, __u32 copied, __u32 pid)
{
	struct read_record *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	__u32 from = s->reported_copied;

	s->reported_copied = copied;
	if (!r) {
		count_ring_full(0);
		return;
	}
	fill_head(&r->head, RECORD_READ, s->cookie);
	r->head.from = from;
	r->copied = copied;
	r->pid = pid;
	bpf_ringbuf_submit(r, wake_flags_now_and_then(1));
}

/* Rules that changed, an owner that is new, or a socket that userspace has not heard of. False: it is not watched. */
static __noinline bool catch_up(struct tcp_sock *tp, struct socket_state *s, struct task_struct *task, __u32 pid)
{
	if (s->generation != control.rules_generation)
		decide(tp, s);
	if (s->verdict != VERDICT_WATCH)
		return false;
	if (pid != s->owner_pid) {
		set_owner(s, task, pid);
		s->announced = 0;
	}
	s->flags |= STATE_OWNER_READ;
	if (!s->announced)
		announce(tp, s);
	return true;
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(acktrail_reads, struct sock *sk)
{
	struct socket_state *s;
	struct task_struct *task;
	struct tcp_sock *tp;
	__u32 copied, pid;
	bool known;

	(void)ctx;
	if (ports_exclude(sk->__sk_common.skc_num, bpf_ntohs(sk->__sk_common.skc_dport)))
		return 0;
	s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!s || s->verdict == VERDICT_IGNORE)
		return 0;
	known = s->generation == control.rules_generation && s->verdict == VERDICT_WATCH && s->announced;
	if (known && (s->flags & (STATE_BROKER_END | STATE_OWNER_READ)) == (STATE_BROKER_END | STATE_OWNER_READ))
		return 0;
	task = bpf_get_current_task_btf();
	pid = task->tgid;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	if (!(known && pid == s->owner_pid && s->flags & STATE_OWNER_READ) && !catch_up(tp, s, task, pid))
		return 0;
	copied = tp->copied_seq;
	if (copied == s->reported_copied || s->flags & STATE_BROKER_END)
		return 0;
	if (only_confirms(s, copied) || demand_of(s, INGRESS) & DEMAND_NO_READS)
		s->reported_copied = copied;
	else
		report_read(s, copied, pid);
	return 0;
}

#endif

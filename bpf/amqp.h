/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* As much of AMQP 0-9-1 as the kernel has to know. */
#ifndef ACKTRAIL_AMQP_H
#define ACKTRAIL_AMQP_H

#include "maps.h"

#define FRAME_HEAD 7 /* type, channel, size */
#define AMQP_FRAME_END 0xCE
#define AMQP_CLASS_BASIC 60
#define AMQP_BASIC_ACK 80
#define CONFIRM_BYTES 21		/* basic.ack: a frame's head, class, method, tag, bits, end octet */
#define BODY_ANNOUNCED (1 + FRAME_HEAD) /* an end octet, and the head of a body frame behind it */

enum frame_type {
	FRAME_METHOD = 1,
	FRAME_HEADER = 2,
	FRAME_BODY = 3,
	FRAME_HEARTBEAT = 8,
};

static __always_inline __u32 be32(const __u8 *at)
{
	return (__u32)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

/* Methods of class 60 (AMQP 0-9-1, and RabbitMQ's basic.nack): 10 20 30 … 110, and 11 21 31 71 72 111. */
static __always_inline bool is_basic_method(__u16 method)
{
	switch (method) {
	case 10:
	case 11:
	case 20:
	case 21:
	case 30:
	case 31:
	case 40:
	case 50:
	case 60:
	case 70:
	case 71:
	case 72:
	case 80:
	case 90:
	case 100:
	case 110:
	case 111:
	case 120:
		return true;
	}
	return false;
}

#endif

package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type spot struct {
	topic     string
	partition int32
	offset    int64
}

type consumer struct {
	name     string
	o        options
	client   *kgo.Client
	held     map[spot]*kgo.Record
	lock     sync.Mutex
	next     map[spot]int64
	ends     map[spot]int64
	assigned map[spot]bool
	changed  time.Time
}

func newConsumer(c *command) (handle, error) {
	opened(c, "consumer")
	return &consumer{name: c.Handle, o: c.Options, held: map[spot]*kgo.Record{}, next: map[spot]int64{}, ends: map[spot]int64{},
		assigned: map[spot]bool{}}, nil
}

func (r *consumer) run(c *command) (fields, error) {
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	switch c.Do {
	case "subscribe":
		return nil, r.start(kgo.ConsumeTopics(c.Topics...))
	case "assign":
		return nil, r.assign(c.Parts)
	case "poll":
		return r.poll(c)
	case "commit":
		return r.commit(ctx, c.Offsets)
	case "seek":
		return nil, r.seek(c.To)
	case "pause":
		say("paused", r.name, fields{"partitions": told(c.Parts)})
		r.client.PauseFetchPartitions(topics(c.Parts))
	case "resume":
		say("resumed", r.name, fields{"partitions": told(c.Parts)})
		r.client.ResumeFetchPartitions(topics(c.Parts))
	case "positions":
		r.positions()
	case "close":
		r.positions()
		say("closing", r.name, fields{"leave": c.Leave == nil || *c.Leave})
		if r.client != nil {
			r.client.CloseAllowingRebalance()
		}
		say("closed", r.name, fields{})
	default:
		return nil, errors.New("franz-go does not know how to " + c.Do)
	}
	return nil, nil
}

// What it consumes is known when the client is made, so that is when it begins.
func (r *consumer) start(what kgo.Opt) error {
	o := &r.o
	reset := kgo.NewOffset().AtStart()
	if o.Reset == "latest" {
		reset = kgo.NewOffset().AtEnd()
	}
	opts := append(shared(o), what, kgo.ConsumeStartOffset(reset), kgo.ConsumeResetOffset(reset), kgo.FetchMaxWait(100*time.Millisecond))
	if o.Isolation == "read_committed" {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	if o.Group != nil {
		opts = append(opts, r.group()...)
	}
	client, err := kgo.NewClient(opts...)
	r.client = client
	return err
}

func (r *consumer) group() []kgo.Opt {
	o := &r.o
	opts := []kgo.Opt{kgo.ConsumerGroup(*o.Group), kgo.BlockRebalanceOnPoll(), kgo.OnPartitionsAssigned(r.moved("assigned")),
		kgo.OnPartitionsRevoked(r.moved("revoked")), kgo.OnPartitionsLost(r.moved("lost")), kgo.HeartbeatInterval(500 * time.Millisecond)}
	switch {
	case o.Protocol == "consumer":
		opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
	case o.Assignor == "cooperative":
		opts = append(opts, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	default:
		opts = append(opts, kgo.Balancers(kgo.RangeBalancer()))
	}
	if o.Protocol != "consumer" {
		session := 6000
		if o.Session > 0 {
			session = o.Session
		}
		opts = append(opts, kgo.SessionTimeout(time.Duration(session)*time.Millisecond))
	}
	if o.Instance != "" {
		opts = append(opts, kgo.InstanceID(o.Instance))
	}
	if o.AutoCommit == 0 {
		return append(opts, kgo.DisableAutoCommit())
	}
	return append(opts, kgo.AutoCommitInterval(time.Duration(max(100, o.AutoCommit))*time.Millisecond), kgo.AutoCommitCallback(
		func(_ *kgo.Client, request *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse, err error) {
			say("committed", r.name, fields{"how": "auto", "offsets": requested(request), "error": refused(response, err)})
		}))
}

func (r *consumer) assign(parts []place) error {
	if r.o.Group != nil {
		return errors.New("franz-go has no group with partitions of one's own choice")
	}
	offsets := map[string]map[int32]kgo.Offset{}
	for _, part := range parts {
		at := kgo.NewOffset().AtStart()
		if part.offset != nil {
			at = kgo.NewOffset().At(*part.offset)
		}
		if offsets[part.topic] == nil {
			offsets[part.topic] = map[int32]kgo.Offset{}
		}
		offsets[part.topic][part.partition] = at
		r.assigned[spot{part.topic, part.partition, 0}] = true
	}
	say("assigned", r.name, fields{"partitions": told(parts)})
	return r.start(kgo.ConsumePartitions(offsets))
}

func (r *consumer) moved(op string) func(context.Context, *kgo.Client, map[string][]int32) {
	return func(ctx context.Context, client *kgo.Client, partitions map[string][]int32) {
		if op == "revoked" && r.o.AutoCommit > 0 {
			// The library's own way, which a callback takes the place of.
			_ = client.CommitUncommittedOffsets(ctx)
		}
		told := []any{}
		r.lock.Lock()
		r.changed = time.Now()
		for topic, several := range partitions {
			for _, partition := range several {
				told = append(told, []any{topic, partition})
				where := spot{topic, partition, 0}
				if r.assigned[where] = op == "assigned"; op != "assigned" {
					delete(r.assigned, where)
					delete(r.next, where)
				}
			}
		}
		r.lock.Unlock()
		say(op, r.name, fields{"partitions": told})
	}
}

func (r *consumer) poll(c *command) (fields, error) {
	end := time.Now().Add(time.Duration(number(c.Timeout, 20_000)) * time.Millisecond)
	quiet, records, complete, assigned := time.Now(), []any{}, false, 0
	for !complete && time.Now().Before(end) {
		most := 500
		if r.o.MaxPoll > 0 {
			most = r.o.MaxPoll
		}
		if c.Records != nil {
			most = max(1, min(most, *c.Records-len(records)))
		}
		some, err := r.take(most)
		if err != nil {
			return nil, err
		}
		if len(some) > 0 {
			records, quiet = append(records, some...), time.Now()
		}
		r.lock.Lock()
		assigned = len(r.assigned)
		if r.changed.After(quiet) {
			quiet = r.changed
		}
		r.lock.Unlock()
		complete = (c.Records == nil || len(records) >= *c.Records) && (c.Assigned == nil || assigned == *c.Assigned) &&
			(c.Idle == nil || time.Since(quiet) >= time.Duration(*c.Idle)*time.Millisecond)
	}
	return fields{"records": records, "complete": complete, "assigned": assigned}, nil
}

func (r *consumer) take(most int) ([]any, error) {
	ctx, done := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer done()
	fetches := r.client.PollRecords(ctx, most)
	// Only now may the assignment change: what is said of these records is said before.
	defer r.client.AllowRebalance()
	var failed error
	fetches.EachError(func(_ string, _ int32, err error) {
		var known *kerr.Error
		var joining *kgo.ErrGroupSession
		if errors.As(err, &joining) {
			return // it says so, and goes on trying
		}
		if !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &known) && known.Retriable) {
			failed = err
		}
	})
	taken := []any{}
	r.lock.Lock()
	defer r.lock.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		where := spot{p.Topic, p.Partition, 0}
		r.ends[where] = p.HighWatermark
		for _, record := range p.Records {
			name := label(record.Value)
			say("handed", r.name, fields{"topic": record.Topic, "partition": record.Partition, "offset": record.Offset, "label": name})
			r.held[spot{record.Topic, record.Partition, record.Offset}] = record
			r.next[where] = record.Offset + 1
			taken = append(taken, []any{record.Topic, record.Partition, record.Offset, name})
		}
	})
	return taken, failed
}

func (r *consumer) commit(ctx context.Context, offsets []place) (fields, error) {
	asked := map[string]map[int32]kgo.EpochOffset{}
	add := func(topic string, partition int32, offset int64) {
		if asked[topic] == nil {
			asked[topic] = map[int32]kgo.EpochOffset{}
		}
		asked[topic][partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	for _, each := range offsets {
		add(each.topic, each.partition, *each.offset)
	}
	if offsets == nil {
		r.lock.Lock()
		for where, next := range r.next {
			add(where.topic, where.partition, next)
		}
		r.lock.Unlock()
	}
	places := []any{}
	for topic, partitions := range asked {
		for partition, at := range partitions {
			places = append(places, []any{topic, partition, at.Offset})
		}
	}
	say("committing", r.name, fields{"how": "sync", "offsets": places})
	var failed any
	r.client.CommitOffsetsSync(ctx, asked, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse, err error) {
		failed = refused(response, err)
	})
	say("committed", r.name, fields{"how": "sync", "offsets": places, "error": failed})
	return fields{"error": failed}, nil
}

func (r *consumer) seek(to *place) error {
	if to == nil || to.offset == nil {
		return errors.New("seek where?")
	}
	say("seek", r.name, fields{"to": []any{to.topic, to.partition, *to.offset}})
	r.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{to.topic: {to.partition: {Epoch: -1, Offset: *to.offset}}})
	r.lock.Lock()
	r.next[spot{to.topic, to.partition, 0}] = *to.offset
	r.lock.Unlock()
	return nil
}

// How far it has come, and how far the log went when it last heard of it.
func (r *consumer) positions() {
	r.lock.Lock()
	defer r.lock.Unlock()
	told := []any{}
	for where := range r.assigned {
		position := []any{where.topic, where.partition, nil, nil}
		if next, known := r.next[where]; known {
			position[2] = next
		}
		if end, known := r.ends[where]; known {
			position[3] = end
		}
		told = append(told, position)
	}
	say("positions", r.name, fields{"partitions": told})
}

func told(parts []place) []any {
	all := []any{}
	for _, part := range parts {
		all = append(all, []any{part.topic, part.partition})
	}
	return all
}

func topics(parts []place) map[string][]int32 {
	all := map[string][]int32{}
	for _, part := range parts {
		all[part.topic] = append(all[part.topic], part.partition)
	}
	return all
}

func requested(request *kmsg.OffsetCommitRequest) []any {
	all := []any{}
	for _, topic := range request.Topics {
		for _, partition := range topic.Partitions {
			all = append(all, []any{topic.Topic, partition.Partition, partition.Offset})
		}
	}
	return all
}

func refused(response *kmsg.OffsetCommitResponse, err error) any {
	if err != nil || response == nil {
		return errorOf(err)
	}
	for _, topic := range response.Topics {
		for _, partition := range topic.Partitions {
			if failed := kerr.ErrorForCode(partition.ErrorCode); failed != nil {
				return errorOf(failed)
			}
		}
	}
	return nil
}

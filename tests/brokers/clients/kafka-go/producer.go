package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type producer struct {
	name         string
	o            options
	client       *kgo.Client
	sent, count  int
	x            any
	acknowledged bool
	turns        atomic.Int64
}

func newProducer(c *command) (handle, error) {
	p := &producer{name: c.Handle, o: c.Options, acknowledged: c.Options.Acks != "0"}
	o := &p.o
	opts := append(shared(o), kgo.ProducerLinger(time.Duration(o.Linger)*time.Millisecond), kgo.RecordPartitioner(p.partitioner()),
		kgo.RecordDeliveryTimeout(20*time.Second), kgo.ProducerBatchCompression(codec(o.Codec)))
	if o.Batch > 1 {
		opts = append(opts, kgo.ProducerBatchMaxBytes(int32(max(o.Batch, 1024))))
	}
	acks := map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck()}
	if fewer, known := acks[o.Acks]; known {
		opts = append(opts, kgo.RequiredAcks(fewer))
	}
	if !o.Idempotent && o.Transactional == "" {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	if o.Transactional != "" {
		opts = append(opts, kgo.TransactionalID(o.Transactional))
	}
	opened(c, "producer")
	client, err := kgo.NewClient(opts...)
	p.client = client
	return p, err
}

func codec(name string) kgo.CompressionCodec {
	switch name {
	case "gzip":
		return kgo.GzipCompression()
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		return kgo.ZstdCompression()
	}
	return kgo.NoCompression()
}

// The partition that was asked for, else one by the key, else one after the other.
func (p *producer) partitioner() kgo.Partitioner {
	return kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, n int) int {
			if r.Partition >= 0 {
				return int(r.Partition)
			}
			if r.Key != nil {
				hash := fnv.New32a()
				hash.Write(r.Key)
				return int(hash.Sum32() % uint32(n))
			}
			return int(p.turns.Add(1) % int64(n))
		}
	})
}

func (p *producer) run(c *command) (fields, error) {
	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	switch c.Do {
	case "produce":
		return nil, p.produce(ctx, c)
	case "copy":
		return nil, p.copy(ctx, c)
	case "flush":
		return nil, p.client.Flush(ctx)
	case "begin":
		p.count++
		p.x = p.count
		say("begun", p.name, fields{"x": p.x})
		return nil, p.client.BeginTransaction()
	case "end":
		return nil, p.end(ctx, c.Commit)
	case "close":
		err := p.client.Flush(ctx)
		p.client.Close()
		say("closed", p.name, fields{})
		return nil, err
	}
	return nil, errors.New("franz-go does not know how to " + c.Do)
}

func (p *producer) produce(ctx context.Context, c *command) error {
	for n := c.First; n < c.First+number(c.N, 1); n++ {
		label := fmt.Sprintf("%s/%d", c.Stem, n)
		record := &kgo.Record{Topic: c.Topic, Value: value(label, c.Size, c.Noise), Headers: headers(c.Headers)}
		if c.Keys != nil && *c.Keys == 0 {
			record.Key = []byte(label)
		} else if c.Keys != nil {
			record.Key = fmt.Appendf(nil, "k%d", n%*c.Keys)
		}
		if err := p.send(ctx, c, record, nil); err != nil {
			return err
		}
		time.Sleep(time.Duration(c.Pause) * time.Millisecond)
	}
	return nil
}

// A record that a consumer of this process was handed, published again.
func (p *producer) copy(ctx context.Context, c *command) error {
	from, known := find(c.Consumer).(*consumer)
	if !known || c.Record == nil || c.Record.offset == nil {
		return errors.New("copy of what?")
	}
	original := from.held[spot{c.Record.topic, c.Record.partition, *c.Record.offset}]
	if original == nil {
		return errors.New("this record was not handed over")
	}
	record := &kgo.Record{Topic: c.Topic, Key: original.Key, Value: original.Value}
	if c.Inherit == nil || *c.Inherit {
		record.Headers = append(record.Headers, original.Headers...)
	}
	record.Headers = append(record.Headers, headers(c.Headers)...)
	return p.send(ctx, c, record, fields{"as": c.As, "group": from.o.Group,
		"of": []any{c.Record.topic, c.Record.partition, *c.Record.offset}})
}

func (p *producer) send(ctx context.Context, c *command, record *kgo.Record, copied fields) error {
	p.sent++
	s := p.sent
	record.Partition = -1
	if c.Partition != nil {
		record.Partition = *c.Partition
	}
	sending := fields{"s": s, "label": label(record.Value), "topic": c.Topic, "partition": c.Partition, "size": len(record.Value), "x": p.x}
	if copied != nil {
		sending["copy"] = copied
	}
	say("sending", p.name, sending)
	p.client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
		produced := fields{"s": s, "topic": r.Topic, "partition": r.Partition, "offset": nil, "error": errorOf(err)}
		if err == nil && p.acknowledged {
			produced["offset"] = r.Offset
		}
		say("produced", p.name, produced)
	})
	if p.o.Batch == 1 {
		// Its batches have no least size; alone on its way, a record has one of its own.
		return p.client.Flush(ctx)
	}
	return nil
}

func (p *producer) end(ctx context.Context, commit bool) error {
	if err := p.client.Flush(ctx); err != nil {
		return err
	}
	say("ending", p.name, fields{"x": p.x, "commit": commit})
	if err := p.client.EndTransaction(ctx, kgo.TransactionEndTry(commit)); err != nil {
		return err
	}
	say("ended", p.name, fields{"x": p.x, "commit": commit})
	p.x = nil
	return nil
}

func label(value []byte) any {
	if value == nil {
		return nil
	}
	before, _, _ := bytes.Cut(value, []byte("|"))
	return string(before)
}

// A value of so many bytes that begins with the label: the label again and again, or bytes that no codec makes smaller.
func value(label string, size int, noise bool) []byte {
	head := label + "|"
	if size <= len(head) {
		return []byte(head)
	}
	if !noise {
		return []byte(strings.Repeat(head, size/len(head)+1)[:size])
	}
	hash := fnv.New32a()
	hash.Write([]byte(head))
	state, filled := hash.Sum32(), []byte(head)
	for len(filled) < size {
		state = state*1_103_515_245 + 12_345
		filled = append(filled, byte(state>>16))
	}
	return filled
}

func headers(given []header) []kgo.RecordHeader {
	var all []kgo.RecordHeader
	for _, each := range given {
		all = append(all, each.RecordHeader)
	}
	return all
}

// franz-go as a child process of the truth tests: truth-kafka-go. Commands come as JSON lines on standard input and are answered
// on standard output (tests/brokers/truth/kafka/client.py has the language); what is done and seen goes to the truth log.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

type fields map[string]any

// What a command says; each uses some of it.
type command struct {
	ID        int      `json:"id"`
	Do        string   `json:"do"`
	Handle    string   `json:"handle"`
	Path      string   `json:"path"`
	Kind      string   `json:"kind"`
	Options   options  `json:"options"`
	Topic     string   `json:"topic"`
	Topics    []string `json:"topics"`
	Partition *int32   `json:"partition"`
	Stem      string   `json:"stem"`
	First     int      `json:"first"`
	N         *int     `json:"n"`
	Size      int      `json:"size"`
	Noise     bool     `json:"noise"`
	Keys      *int     `json:"keys"`
	Pause     int      `json:"pause"`
	Headers   []header `json:"headers"`
	Consumer  string   `json:"consumer"`
	Record    *place   `json:"record"`
	As        string   `json:"as"`
	Inherit   *bool    `json:"inherit"`
	Commit    bool     `json:"commit"`
	Parts     []place  `json:"partitions"`
	Offsets   []place  `json:"offsets"`
	To        *place   `json:"to"`
	Records   *int     `json:"records"`
	Assigned  *int     `json:"assigned"`
	Idle      *int     `json:"idle"`
	Timeout   *int     `json:"timeout"`
	Leave     *bool    `json:"leave"`
}

type options struct {
	Bootstrap     string  `json:"bootstrap"`
	ClientID      string  `json:"client_id"`
	Security      string  `json:"security"`
	User          string  `json:"user"`
	Password      string  `json:"password"`
	Acks          string  `json:"acks"`
	Linger        int     `json:"linger"`
	Batch         int     `json:"batch"`
	Codec         string  `json:"codec"`
	Idempotent    bool    `json:"idempotent"`
	Transactional string  `json:"transactional"`
	Group         *string `json:"group"`
	AutoCommit    int     `json:"auto_commit"`
	Reset         string  `json:"reset"`
	Isolation     string  `json:"isolation"`
	MaxPoll       int     `json:"max_poll"`
	Protocol      string  `json:"protocol"`
	Assignor      string  `json:"assignor"`
	Session       int     `json:"session"`
	Instance      string  `json:"instance"`
}

// [topic, partition] or [topic, partition, offset].
type place struct {
	topic     string
	partition int32
	offset    *int64
}

func (p *place) UnmarshalJSON(text []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	if err := json.Unmarshal(parts[0], &p.topic); err != nil {
		return err
	}
	if err := json.Unmarshal(parts[1], &p.partition); err != nil {
		return err
	}
	if len(parts) > 2 {
		return json.Unmarshal(parts[2], &p.offset)
	}
	return nil
}

// [name, text] or [name, {"hex": bytes}].
type header struct{ kgo.RecordHeader }

func (h *header) UnmarshalJSON(text []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	if err := json.Unmarshal(parts[0], &h.Key); err != nil {
		return err
	}
	var plain string
	if json.Unmarshal(parts[1], &plain) == nil {
		h.Value = []byte(plain)
		return nil
	}
	var hex struct{ Hex string }
	if err := json.Unmarshal(parts[1], &hex); err != nil {
		return err
	}
	_, err := fmt.Sscanf(hex.Hex, "%x", &h.Value)
	return err
}

// One producer or consumer.
type handle interface {
	run(c *command) (fields, error)
}

var (
	handles   = map[string]handle{}
	handling  sync.Mutex
	truth     *os.File
	logging   sync.Mutex
	answering sync.Mutex
)

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	queues := map[string]chan *command{}
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		c := &command{}
		if err := json.Unmarshal(line, c); err != nil {
			answer(c, nil, err)
			continue
		}
		switch c.Do {
		case "log":
			logging.Lock()
			truth, err = os.OpenFile(c.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
			logging.Unlock()
			answer(c, fields{}, err)
		case "open":
			queues[c.Handle] = make(chan *command, 100)
			go work(c, queues[c.Handle])
		default:
			queues[c.Handle] <- c
		}
	}
}

// The thread of a handle: carries out its commands in order.
func work(opening *command, queue chan *command) {
	h, err := open(opening)
	answer(opening, fields{}, err)
	if err != nil {
		return
	}
	handling.Lock()
	handles[opening.Handle] = h
	handling.Unlock()
	for c := range queue {
		result, err := h.run(c)
		if c.Do == "close" {
			handling.Lock()
			delete(handles, opening.Handle)
			handling.Unlock()
		}
		answer(c, result, err)
		if c.Do == "close" {
			return
		}
	}
}

func open(c *command) (handle, error) {
	switch c.Kind {
	case "producer":
		return newProducer(c)
	case "consumer":
		return newConsumer(c)
	}
	return nil, errors.New("franz-go is no " + c.Kind + " here")
}

func find(name string) handle {
	handling.Lock()
	defer handling.Unlock()
	return handles[name]
}

func answer(c *command, result fields, fault error) {
	line := fields{"id": c.ID, "result": result}
	if fault != nil {
		line = fields{"id": c.ID, "fault": fault.Error()}
	} else if result == nil {
		line["result"] = fields{}
	}
	text, err := json.Marshal(line)
	if err != nil {
		text = fmt.Appendf(nil, `{"id":%d,"fault":"the answer cannot be written"}`, c.ID)
	}
	answering.Lock()
	defer answering.Unlock()
	fmt.Println(string(text))
}

// A line of the truth log, in one write: other processes append to the same file.
func say(op, handle string, more fields) {
	more["t"], more["op"], more["handle"] = time.Now().UnixNano(), op, handle
	text, err := json.Marshal(more)
	if err != nil {
		panic(err)
	}
	logging.Lock()
	defer logging.Unlock()
	if _, err := truth.Write(append(text, '\n')); err != nil {
		panic(err)
	}
}

func opened(c *command, kind string) {
	told := fields{}
	text, _ := json.Marshal(c.Options)
	_ = json.Unmarshal(text, &told)
	delete(told, "password")
	told["kind"], told["client"], told["pid"] = kind, "franz", os.Getpid()
	say("opened", c.Handle, told)
}

// Options that both kinds have.
func shared(o *options) []kgo.Opt {
	opts := []kgo.Opt{kgo.SeedBrokers(o.Bootstrap), kgo.ClientID(o.ClientID), kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.MetadataMaxAge(2 * time.Second), kgo.DisableClientMetrics()}
	if o.Security == "sasl" {
		opts = append(opts, kgo.SASL(plain.Auth{User: o.User, Pass: o.Password}.AsMechanism()))
	}
	return opts
}

// A broker's error by its code and name; one of the client's own has no code.
func errorOf(err error) any {
	if err == nil {
		return nil
	}
	var known *kerr.Error
	if errors.As(err, &known) {
		return fields{"code": known.Code, "name": known.Message}
	}
	return fields{"code": nil, "name": err.Error()}
}

func number(given *int, otherwise int) int {
	if given == nil {
		return otherwise
	}
	return *given
}

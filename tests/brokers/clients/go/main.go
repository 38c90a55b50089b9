// The core scenarios by amqp091-go: truth-go URL PREFIX ids|anon FLOW. Prints a truth log (tests/brokers/truth/log.py) to
// standard output.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type fields map[string]any

var (
	url, prefix string
	ids         bool
	saying      sync.Mutex
)

func say(op string, more fields) {
	saying.Lock()
	defer saying.Unlock()
	more["op"], more["t"] = op, time.Now().UnixNano()
	line, err := json.Marshal(more)
	must(err)
	fmt.Println(string(line))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	url, prefix, ids = os.Args[1], os.Args[2], os.Args[3] == "ids"
	switch os.Args[4] {
	case "ack":
		flow(30, true, false, 30, plain)
	case "auto":
		flow(30, false, true, 30, func(*seat, amqp.Delivery) {})
	case "requeue":
		flow(10, false, false, 20, requeue)
	case "dead":
		dead(10)
	case "multiple":
		flow(25, true, false, 25, multiple)
	default:
		log.Fatal("unknown flow ", os.Args[4])
	}
}

func plain(s *seat, d amqp.Delivery) { s.ack(d, false) }

func requeue(s *seat, d amqp.Delivery) {
	if d.Redelivered {
		s.ack(d, false)
	} else {
		s.settle(d.DeliveryTag, "nack", true, false)
		must(d.Nack(false, true))
	}
}

func reject(s *seat, d amqp.Delivery) {
	s.settle(d.DeliveryTag, "reject", false, false)
	must(d.Reject(false))
}

func multiple(s *seat, d amqp.Delivery) {
	if d.DeliveryTag%10 == 0 || d.DeliveryTag == 25 {
		s.ack(d, true)
	}
}

func flow(messages int, confirms, automatic bool, deliveries int, on func(*seat, amqp.Delivery)) {
	queue := prefix + ".work"
	publishing, port := connect()
	defer publishing.Close()
	channel, err := publishing.Channel()
	must(err)
	declare(channel, queue, nil, fields{"drop": true})
	publish(channel, port, queue, messages, confirms)
	consuming, port := connect()
	defer consuming.Close()
	sit(consuming, port, queue, automatic).run(deliveries, on)
}

func dead(messages int) {
	work, letters := prefix+".work", prefix+".dead"
	publishing, port := connect()
	defer publishing.Close()
	channel, err := publishing.Channel()
	must(err)
	declare(channel, letters, nil, fields{"drop": true})
	declare(channel, work, amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": letters}, fields{"dead": letters})
	publish(channel, port, work, messages, false)
	consuming, port := connect()
	defer consuming.Close()
	sit(consuming, port, work, false).run(messages, reject)
	draining, port := connect()
	defer draining.Close()
	sit(draining, port, letters, false).run(messages, plain)
}

func connect() (*amqp.Connection, int) {
	connection, err := amqp.DialConfig(url, amqp.Config{Properties: amqp.Table{"connection_name": prefix + ".go"}})
	must(err)
	port := connection.LocalAddr().(*net.TCPAddr).Port
	say("note", fields{"text": "connected", "port": port, "pid": os.Getpid(), "vhost": "/"})
	return connection, port
}

func declare(channel *amqp.Channel, queue string, arguments amqp.Table, fate fields) {
	_, err := channel.QueueDeclare(queue, false, false, false, false, arguments)
	must(err)
	say("queue", fields{"queue": queue, "fate": fate})
}

func publish(channel *amqp.Channel, port int, queue string, messages int, confirms bool) {
	confirmed := make(chan amqp.Confirmation, messages)
	if confirms {
		must(channel.Confirm(false))
		channel.NotifyPublish(confirmed)
	}
	keys := []string{}
	for n := 0; n < messages; n++ {
		key := fmt.Sprintf("%s/%d", prefix, n)
		keys = append(keys, key)
		body := append([]byte(key+"|"), bytes.Repeat([]byte("g"), n*41)...)
		message := amqp.Publishing{Body: body}
		var id any
		if ids {
			message.MessageId, id = key, key
		}
		say("publish", fields{"key": key, "id": id, "exchange": "", "rk": queue, "mandatory": false, "size": len(body),
			"chan": fmt.Sprintf("%d/1/0", port), "tx": nil, "confirms": confirms})
		must(channel.Publish("", queue, false, false, message))
	}
	for n := 0; confirms && n < messages; n++ {
		answer := <-confirmed
		if !answer.Ack {
			log.Fatal("refused")
		}
		// The library does not tell whether one confirm spoke of several.
		say("confirm", fields{"key": keys[answer.DeliveryTag-1], "multiple": nil})
	}
}

type seat struct {
	channel     *amqp.Channel
	chanName    string
	queue       string
	automatic   bool
	deliveries  <-chan amqp.Delivery
	outstanding []uint64
}

func sit(connection *amqp.Connection, port int, queue string, automatic bool) *seat {
	channel, err := connection.Channel()
	must(err)
	name := fmt.Sprintf("%d/1/0", port)
	deliveries, err := channel.Consume(queue, prefix+".ctag-"+name, automatic, false, false, false, nil)
	must(err)
	return &seat{channel: channel, chanName: name, queue: queue, automatic: automatic, deliveries: deliveries}
}

func (s *seat) run(count int, on func(*seat, amqp.Delivery)) {
	for ; count > 0; count-- {
		var d amqp.Delivery
		select {
		case d = <-s.deliveries:
		case <-time.After(30 * time.Second):
			log.Fatal("deliveries did not come: ", count)
		}
		key := strings.SplitN(string(d.Body), "|", 2)[0]
		var id any
		if d.MessageId != "" {
			id = d.MessageId
		}
		say("deliver", fields{"key": key, "id": id, "queue": s.queue, "chan": s.chanName, "tag": d.DeliveryTag,
			"ctag": d.ConsumerTag, "redelivered": d.Redelivered, "exchange": d.Exchange, "rk": d.RoutingKey,
			"auto": s.automatic, "get": false, "read": true, "deaths": deaths(d), "counts": nil})
		if !s.automatic {
			s.outstanding = append(s.outstanding, d.DeliveryTag)
		}
		on(s, d)
	}
	// A synchronous method behind the last settlement: when it is answered, the broker has them all.
	must(s.channel.Qos(0, 0, false))
}

func (s *seat) ack(d amqp.Delivery, multiple bool) {
	s.settle(d.DeliveryTag, "ack", nil, multiple)
	must(d.Ack(multiple))
}

func (s *seat) settle(tag uint64, how string, requeue any, multiple bool) {
	tags, left := []uint64{}, []uint64{}
	for _, held := range s.outstanding {
		if held == tag || multiple && held < tag {
			tags = append(tags, held)
		} else {
			left = append(left, held)
		}
	}
	s.outstanding = left
	say("settle", fields{"chan": s.chanName, "tags": tags, "how": how, "requeue": requeue, "multiple": multiple, "tx": nil})
}

func deaths(d amqp.Delivery) []any {
	all := []any{}
	entries, _ := d.Headers["x-death"].([]any)
	for _, entry := range entries {
		table := entry.(amqp.Table)
		all = append(all, []any{table["queue"], table["reason"], table["count"]})
	}
	return all
}

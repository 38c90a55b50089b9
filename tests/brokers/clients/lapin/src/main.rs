//! The core scenarios by lapin: `truth-lapin URL PREFIX ids|anon FLOW`. Prints a truth log (tests/brokers/truth/log.py) to
//! standard output.

use std::collections::HashSet;
use std::error::Error;
use std::time::{Duration, SystemTime};

use futures_lite::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};

type Anything<T> = Result<T, Box<dyn Error>>;

struct Run {
    url: String,
    prefix: String,
    ids: bool,
}

fn main() -> Anything<()> {
    let words: Vec<String> = std::env::args().collect();
    let [_, url, prefix, ids, flow] = words.as_slice() else { return Err("URL PREFIX ids|anon FLOW".into()) };
    let run = Run { url: url.clone(), prefix: prefix.clone(), ids: ids == "ids" };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match flow.as_str() {
            "ack" => run.flow(30, true, Habit::Plain).await,
            "auto" => run.flow(30, false, Habit::Automatic).await,
            "requeue" => run.flow(10, false, Habit::Requeue).await,
            "dead" => run.dead(10).await,
            "multiple" => run.flow(25, true, Habit::Multiple).await,
            other => Err(format!("unknown flow {other}").into()),
        }
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Plain,
    Automatic,
    Requeue,
    Reject,
    Multiple,
}

impl Run {
    async fn flow(&self, messages: u64, confirms: bool, habit: Habit) -> Anything<()> {
        let queue = format!("{}.work", self.prefix);
        let (publishing, port) = self.connect().await?;
        let channel = publishing.create_channel().await?;
        declare(&channel, &queue, FieldTable::default(), json!({"drop": true})).await?;
        self.publish(&channel, port, &queue, messages, confirms).await?;
        let (consuming, port) = self.connect().await?;
        let deliveries = if habit == Habit::Requeue { 2 * messages } else { messages };
        self.consume(&consuming, port, &queue, deliveries, habit).await?;
        consuming.close(200, "done".into()).await?;
        publishing.close(200, "done".into()).await?;
        Ok(())
    }

    async fn dead(&self, messages: u64) -> Anything<()> {
        let (work, letters) = (format!("{}.work", self.prefix), format!("{}.dead", self.prefix));
        let (publishing, port) = self.connect().await?;
        let channel = publishing.create_channel().await?;
        declare(&channel, &letters, FieldTable::default(), json!({"drop": true})).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(letters.as_str().into()));
        declare(&channel, &work, arguments, json!({"dead": letters})).await?;
        self.publish(&channel, port, &work, messages, false).await?;
        for (queue, habit) in [(&work, Habit::Reject), (&letters, Habit::Plain)] {
            let (consuming, port) = self.connect().await?;
            self.consume(&consuming, port, queue, messages, habit).await?;
            consuming.close(200, "done".into()).await?;
        }
        publishing.close(200, "done".into()).await?;
        Ok(())
    }

    async fn connect(&self) -> Anything<(Connection, u16)> {
        let server: u16 = self.url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap_or("").parse()?;
        let before = local_ports(server)?;
        let properties = ConnectionProperties::default().with_connection_name(format!("{}.lapin", self.prefix).into());
        let connection = Connection::connect(&self.url, properties).await?;
        let port = *local_ports(server)?.difference(&before).next().ok_or("the new connection has no port")?;
        say("note", json!({"text": "connected", "port": port, "pid": std::process::id(), "vhost": "/"}));
        Ok((connection, port))
    }

    async fn publish(&self, channel: &Channel, port: u16, queue: &str, messages: u64, confirms: bool) -> Anything<()> {
        if confirms {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
        }
        let mut waiting = Vec::new();
        for n in 0..messages {
            let key = format!("{}/{n}", self.prefix);
            let mut body = format!("{key}|").into_bytes();
            body.resize(body.len() + usize::try_from(n * 43)?, b'l');
            let mut properties = BasicProperties::default();
            if self.ids {
                properties = properties.with_message_id(key.as_str().into());
            }
            say(
                "publish",
                json!({"key": key, "id": self.ids.then_some(&key), "exchange": "", "rk": queue, "mandatory": false,
                       "size": body.len(), "chan": format!("{port}/{}/0", channel.id()), "tx": null, "confirms": confirms}),
            );
            let options = BasicPublishOptions::default();
            waiting.push((key, channel.basic_publish("".into(), queue.into(), options, &body, properties).await?));
        }
        for (key, confirm) in waiting {
            match confirm.await? {
                // The library does not tell whether one confirm spoke of several.
                Confirmation::Ack(_) => say("confirm", json!({"key": key, "multiple": null})),
                Confirmation::NotRequested => {}
                refused => return Err(format!("{refused:?}").into()),
            }
        }
        Ok(())
    }

    async fn consume(&self, on: &Connection, port: u16, queue: &str, deliveries: u64, habit: Habit) -> Anything<()> {
        let channel = on.create_channel().await?;
        let chan = format!("{port}/{}/0", channel.id());
        let mut options = BasicConsumeOptions::default();
        options.no_ack = habit == Habit::Automatic;
        let tag = format!("{}.ctag-{chan}", self.prefix);
        let mut consumer =
            channel.basic_consume(queue.into(), tag.as_str().into(), options, FieldTable::default()).await?;
        let mut outstanding = Vec::new();
        for _ in 0..deliveries {
            let next = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await?;
            let delivery = next.ok_or("the consumer ended")??;
            self.delivered(&delivery, queue, &chan, &tag, habit);
            if habit != Habit::Automatic {
                outstanding.push(delivery.delivery_tag);
            }
            settle(&channel, &delivery, &chan, habit, &mut outstanding).await?;
        }
        // A synchronous method behind the last settlement: when it is answered, the broker has them all.
        channel.basic_qos(0, BasicQosOptions::default()).await?;
        // Dropped instead, it would be closed at some moment, perhaps in the middle of the connection's close.
        match channel.close(200, "done".into()).await {
            // On a busy machine the library is sometimes quicker, and refuses to close what it is closing.
            Err(error) if !matches!(error.kind(), lapin::ErrorKind::InvalidChannelState(..)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn delivered(&self, delivery: &Delivery, queue: &str, chan: &str, ctag: &str, habit: Habit) {
        let body = String::from_utf8_lossy(&delivery.data);
        let key = body.split('|').next().unwrap_or("");
        say(
            "deliver",
            json!({"key": key, "id": self.ids.then_some(key), "queue": queue, "chan": chan, "tag": delivery.delivery_tag,
                   "ctag": ctag, "redelivered": delivery.redelivered, "exchange": delivery.exchange.as_str(),
                   "rk": delivery.routing_key.as_str(), "auto": habit == Habit::Automatic, "get": false, "read": true,
                   "deaths": deaths(&delivery.properties), "counts": null}),
        );
    }
}

async fn settle(
    channel: &Channel,
    delivery: &Delivery,
    chan: &str,
    habit: Habit,
    outstanding: &mut Vec<u64>,
) -> Anything<()> {
    let tag = delivery.delivery_tag;
    let mut told = |how: &str, requeue: Value, multiple: bool| {
        let (tags, left) =
            outstanding.iter().partition::<Vec<u64>, _>(|held| **held == tag || multiple && **held < tag);
        *outstanding = left;
        say(
            "settle",
            json!({"chan": chan, "tags": tags, "how": how, "requeue": requeue, "multiple": multiple, "tx": null}),
        );
    };
    match habit {
        Habit::Automatic => {}
        Habit::Requeue if !delivery.redelivered => {
            told("nack", json!(true), false);
            let mut options = BasicNackOptions::default();
            options.requeue = true;
            channel.basic_nack(tag, options).await?;
        }
        Habit::Reject => {
            told("reject", json!(false), false);
            channel.basic_reject(tag, BasicRejectOptions::default()).await?;
        }
        Habit::Multiple if tag % 10 == 0 || tag == 25 => {
            told("ack", Value::Null, true);
            let mut options = BasicAckOptions::default();
            options.multiple = true;
            channel.basic_ack(tag, options).await?;
        }
        Habit::Multiple => {}
        Habit::Plain | Habit::Requeue => {
            told("ack", Value::Null, false);
            channel.basic_ack(tag, BasicAckOptions::default()).await?;
        }
    }
    Ok(())
}

async fn declare(channel: &Channel, queue: &str, arguments: FieldTable, fate: Value) -> Anything<()> {
    channel.queue_declare(queue.into(), QueueDeclareOptions::default(), arguments).await?;
    say("queue", json!({"queue": queue, "fate": fate}));
    Ok(())
}

fn deaths(properties: &BasicProperties) -> Vec<Value> {
    let Some(AMQPValue::FieldArray(entries)) =
        properties.headers().as_ref().and_then(|headers| headers.inner().get("x-death"))
    else {
        return Vec::new();
    };
    let text = |table: &FieldTable, key: &str| match table.inner().get(key) {
        Some(AMQPValue::LongString(text)) => json!(text.to_string()),
        Some(AMQPValue::LongLongInt(count)) => json!(count),
        _ => Value::Null,
    };
    entries
        .as_slice()
        .iter()
        .filter_map(|entry| match entry {
            AMQPValue::FieldTable(table) => {
                Some(json!([text(table, "queue"), text(table, "reason"), text(table, "count")]))
            }
            _ => None,
        })
        .collect()
}

/// Local ports of this process's connections to a port of 127.0.0.1: lapin does not tell them.
fn local_ports(server: u16) -> Anything<HashSet<u16>> {
    let mut own = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Ok(target) = std::fs::read_link(entry?.path())
            && let Some(inode) = target.to_string_lossy().strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'))
        {
            own.insert(inode.to_owned());
        }
    }
    let mut ports = HashSet::new();
    for line in std::fs::read_to_string("/proc/self/net/tcp")?.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, local, remote, _, _, _, _, _, _, inode, ..] = words.as_slice()
            && remote.ends_with(&format!(":{server:04X}"))
            && own.contains(*inode)
        {
            ports.insert(u16::from_str_radix(local.rsplit(':').next().unwrap_or(""), 16)?);
        }
    }
    Ok(ports)
}

fn say(op: &str, mut fields: Value) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    fields["op"] = json!(op);
    fields["t"] = json!(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    println!("{fields}");
}

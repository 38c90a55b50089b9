import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** A producer. */
final class Producing extends Handle {
    private KafkaProducer<byte[], byte[]> producer;
    private int sent;
    private int transactions;
    private boolean inTransaction;

    Producing(KafkaTruth process, String name, JsonNode options) {
        super(process, name, options);
    }

    @Override
    void open() {
        Properties settings = settings();
        settings.put("acks", options.path("acks").asText("all"));
        settings.put("linger.ms", options.path("linger").asText("0"));
        settings.put("batch.size", options.path("batch").asText("16384"));
        settings.put("compression.type", options.path("codec").asText("none"));
        settings.put("enable.idempotence", options.path("idempotent").asBoolean(false) || options.hasNonNull("transactional"));
        settings.put("max.block.ms", "20000");
        if (options.hasNonNull("transactional")) {
            settings.put("transactional.id", options.get("transactional").asText());
        }
        given(settings);
        opened("producer");
        producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
        if (options.hasNonNull("transactional")) {
            producer.initTransactions();
        }
    }

    @Override
    ObjectNode run(String what, JsonNode command) throws Exception {
        return switch (what) {
            case "produce" -> produce(command);
            case "copy" -> copy(command);
            case "flush" -> {
                producer.flush();
                yield result();
            }
            case "begin" -> {
                say(entry("begun").put("x", ++transactions));
                inTransaction = true;
                producer.beginTransaction();
                yield result();
            }
            case "end" -> end(command.get("commit").asBoolean());
            case "send_offsets" -> sendOffsets(command);
            case "close" -> {
                producer.close();
                say(entry("closed"));
                yield result();
            }
            default -> null;
        };
    }

    private ObjectNode produce(JsonNode command) {
        int first = command.path("first").asInt(0);
        int size = command.path("size").asInt(0);
        int pause = command.path("pause").asInt(0);
        for (int n = first; n < first + command.path("n").asInt(1); n++) {
            String label = command.get("stem").asText() + "/" + n;
            byte[] key = null;
            if (command.hasNonNull("keys")) {
                int keys = command.get("keys").asInt();
                key = (keys == 0 ? label : "k" + n % keys).getBytes(StandardCharsets.UTF_8);
            }
            send(command, key, value(label, size, command.path("noise").asBoolean(false)), headers(command.path("headers")), null);
            rest(pause);
        }
        return result();
    }

    private static void rest(int milliseconds) {
        if (milliseconds > 0) {
            try {
                Thread.sleep(milliseconds);
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** A record that a consumer of this process was handed, published again. */
    private ObjectNode copy(JsonNode command) {
        JsonNode of = command.get("record");
        Consuming consumer = (Consuming) process.handle(command.get("consumer").asText());
        ConsumerRecord<byte[], byte[]> original = consumer.held(partition(of), of.get(2).asLong());
        List<Header> headers = new ArrayList<>();
        if (command.path("inherit").asBoolean(true)) {
            original.headers().forEach(headers::add);
        }
        headers.addAll(headers(command.path("headers")));
        ObjectNode copied = KafkaTruth.JSON.createObjectNode().put("group", consumer.text("group"))
            .put("as", command.get("as").asText());
        copied.set("of", of);
        send(command, original.key(), original.value(), headers, copied);
        return result();
    }

    private void send(JsonNode command, byte[] key, byte[] value, List<Header> headers, ObjectNode copied) {
        int s = ++sent;
        Integer partition = command.hasNonNull("partition") ? command.get("partition").asInt() : null;
        String topic = command.get("topic").asText();
        ObjectNode sending = entry("sending").put("s", s).put("label", label(value)).put("topic", topic).put("partition", partition)
            .put("size", value.length).put("x", inTransaction ? transactions : null);
        if (copied != null) {
            sending.set("copy", copied);
        }
        say(sending);
        producer.send(new ProducerRecord<>(topic, partition, key, value, headers), (metadata, failed) -> {
            ObjectNode produced = entry("produced").put("s", s).put("topic", topic);
            boolean placed = metadata != null && metadata.partition() >= 0;
            produced.put("partition", placed ? metadata.partition() : partition);
            produced.put("offset", failed == null && metadata.hasOffset() ? metadata.offset() : null);
            produced.set("error", Log.error(failed));
            say(produced);
        });
    }

    private static byte[] value(String label, int size, boolean noise) {
        byte[] head = (label + "|").getBytes(StandardCharsets.UTF_8);
        byte[] value = java.util.Arrays.copyOf(head, Math.max(size, head.length));
        int state = label.hashCode();
        for (int at = head.length; at < value.length; at++) {
            state = state * 1_103_515_245 + 12_345;
            value[at] = noise ? (byte) (state >>> 16) : head[at % head.length];
        }
        return value;
    }

    private static List<Header> headers(JsonNode given) {
        List<Header> headers = new ArrayList<>();
        for (JsonNode each : given) {
            JsonNode value = each.get(1);
            byte[] bytes = value.isObject() ? HexFormat.of().parseHex(value.get("hex").asText())
                : value.asText().getBytes(StandardCharsets.UTF_8);
            headers.add(new RecordHeader(each.get(0).asText(), bytes));
        }
        return headers;
    }

    private ObjectNode end(boolean commit) {
        ObjectNode ending = entry("ending").put("x", transactions).put("commit", commit);
        say(ending);
        if (commit) {
            producer.commitTransaction();
        } else {
            producer.abortTransaction();
        }
        inTransaction = false;
        say(entry("ended").put("x", transactions).put("commit", commit));
        return result();
    }

    private ObjectNode sendOffsets(JsonNode command) {
        Consuming consumer = (Consuming) process.handle(command.get("consumer").asText());
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        ArrayNode told = list();
        consumer.next().forEach((partition, next) -> {
            offsets.put(partition, new OffsetAndMetadata(next));
            told.add(where(partition).add(next));
        });
        ObjectNode committing = entry("committing").put("how", "txn").put("x", transactions).put("group", consumer.text("group"));
        committing.set("offsets", told);
        say(committing);
        producer.sendOffsetsToTransaction(offsets, consumer.metadata());
        return result();
    }
}

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;

/** One producer or consumer, with a thread of its own that carries out its commands in order. */
abstract class Handle {
    final KafkaTruth process;
    final String name;
    final JsonNode options;
    private final BlockingQueue<JsonNode> commands = new LinkedBlockingQueue<>();

    Handle(KafkaTruth process, String name, JsonNode options) {
        this.process = process;
        this.name = name;
        this.options = options;
    }

    /** Makes the client. */
    abstract void open() throws Exception;

    /** Carries out a command; null for one that is not known. */
    abstract ObjectNode run(String what, JsonNode command) throws Exception;

    final void begin(JsonNode command) {
        Thread thread = new Thread(() -> work(command), name);
        thread.setDaemon(true);
        thread.start();
    }

    final void queue(JsonNode command) {
        commands.add(command);
    }

    private void work(JsonNode opening) {
        try {
            open();
            process.answer(opening, result(), null);
        } catch (Exception fault) {
            process.answer(opening, null, fault);
            return;
        }
        boolean closed = false;
        while (!closed) {
            JsonNode command = null;
            try {
                command = commands.take();
                String what = command.get("do").asText();
                ObjectNode result = run(what, command);
                if (result == null) {
                    throw new IllegalArgumentException(what);
                }
                closed = what.equals("close");
                process.answer(command, result, null);
            } catch (Exception fault) {
                process.answer(command, null, fault);
            }
        }
        process.forget(name);
    }

    /** Settings that all clients share, with those that the command gives as they are. */
    final Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", options.get("bootstrap").asText());
        settings.put("client.id", options.get("client_id").asText());
        if (options.path("security").asText().equals("sasl")) {
            settings.put("security.protocol", "SASL_PLAINTEXT");
            settings.put("sasl.mechanism", "PLAIN");
            settings.put("sasl.jaas.config", "org.apache.kafka.common.security.plain.PlainLoginModule required username=\""
                + options.get("user").asText() + "\" password=\"" + options.get("password").asText() + "\";");
        }
        return settings;
    }

    final void given(Properties settings) {
        for (Map.Entry<String, JsonNode> each : options.path("extra").properties()) {
            settings.put(each.getKey(), each.getValue().asText());
        }
    }

    final String text(String option) {
        return options.hasNonNull(option) ? options.get(option).asText() : null;
    }

    final ObjectNode entry(String op) {
        return Log.entry(op, name);
    }

    final void say(ObjectNode entry) {
        process.log().add(entry);
    }

    final void opened(String kind) {
        ObjectNode entry = entry("opened").put("kind", kind).put("client", "java").put("pid", ProcessHandle.current().pid());
        ObjectNode plain = options.deepCopy();
        plain.remove("password");
        entry.setAll(plain);
        say(entry);
    }

    static ObjectNode result() {
        return KafkaTruth.JSON.createObjectNode();
    }

    static ArrayNode list() {
        return KafkaTruth.JSON.createArrayNode();
    }

    static TopicPartition partition(JsonNode where) {
        return new TopicPartition(where.get(0).asText(), where.get(1).asInt());
    }

    static ArrayNode where(TopicPartition partition) {
        return list().add(partition.topic()).add(partition.partition());
    }

    /** The label of a record: its value up to the bar. */
    static String label(byte[] value) {
        if (value == null) {
            return null;
        }
        String text = new String(value, java.nio.charset.StandardCharsets.UTF_8);
        int end = text.indexOf('|');
        return end < 0 ? text : text.substring(0, end);
    }

    static ArrayNode identity(ConsumerRecord<byte[], byte[]> record) {
        return list().add(record.topic()).add(record.partition()).add(record.offset()).add(label(record.value()));
    }
}

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** A share consumer. */
final class Sharing extends Handle {
    private static final Duration TURN = Duration.ofMillis(50);

    private KafkaShareConsumer<byte[], byte[]> consumer;
    private final Map<String, ConsumerRecord<byte[], byte[]>> held = new HashMap<>();

    Sharing(KafkaTruth process, String name, JsonNode options) {
        super(process, name, options);
    }

    @Override
    void open() {
        Properties settings = settings();
        settings.put("group.id", options.get("group").asText());
        settings.put("share.acknowledgement.mode", options.path("mode").asText("explicit"));
        settings.put("max.poll.records", options.path("max_poll").asText("500"));
        settings.put("fetch.max.wait.ms", "100");
        given(settings);
        opened("share");
        consumer = new KafkaShareConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.setAcknowledgementCommitCallback(this::settled);
    }

    @Override
    ObjectNode run(String what, JsonNode command) {
        switch (what) {
            case "subscribe" -> {
                List<String> topics = new ArrayList<>();
                command.get("topics").forEach(topic -> topics.add(topic.asText()));
                consumer.subscribe(topics);
            }
            case "poll" -> {
                return poll(command);
            }
            case "verdict" -> command.get("records").forEach(this::verdict);
            case "commit" -> {
                return commit();
            }
            case "close" -> {
                say(entry("closing").put("leave", true));
                consumer.close();
                say(entry("closed"));
            }
            default -> {
                return null;
            }
        }
        return result();
    }

    private ObjectNode poll(JsonNode command) {
        long end = System.nanoTime() + command.path("timeout").asLong(20_000) * 1_000_000;
        long quiet = System.nanoTime();
        ArrayNode records = list();
        boolean complete = false;
        while (!complete && System.nanoTime() < end) {
            ConsumerRecords<byte[], byte[]> some = consumer.poll(TURN);
            for (ConsumerRecord<byte[], byte[]> record : some) {
                records.add(handed(record));
            }
            if (!some.isEmpty()) {
                quiet = System.nanoTime();
            }
            long silence = (System.nanoTime() - quiet) / 1_000_000;
            complete = (!command.hasNonNull("records") || records.size() >= command.get("records").asInt())
                && (!command.hasNonNull("idle") || silence >= command.get("idle").asLong());
            if (!some.isEmpty() && command.path("once").asBoolean(true)) {
                // What was polled wants its verdicts before the next poll.
                break;
            }
        }
        ObjectNode result = result().put("complete", complete || !records.isEmpty());
        result.set("records", records);
        return result;
    }

    private ArrayNode handed(ConsumerRecord<byte[], byte[]> record) {
        Integer count = record.deliveryCount().map(Short::intValue).orElse(null);
        say(entry("handed").put("topic", record.topic()).put("partition", record.partition()).put("offset", record.offset())
            .put("label", label(record.value())).put("count", count));
        held.put(new TopicPartition(record.topic(), record.partition()) + "/" + record.offset(), record);
        return identity(record).add(count);
    }

    private void verdict(JsonNode each) {
        ConsumerRecord<byte[], byte[]> record = held.get(partition(each) + "/" + each.get(2).asLong());
        String verdict = each.get(3).asText();
        say(entry("verdict").put("topic", record.topic()).put("partition", record.partition()).put("offset", record.offset())
            .put("verdict", verdict));
        consumer.acknowledge(record, AcknowledgeType.valueOf(verdict.toUpperCase(Locale.ROOT)));
    }

    private ObjectNode commit() {
        Map<TopicIdPartition, Optional<KafkaException>> done = consumer.commitSync();
        ArrayNode answers = list();
        done.forEach((partition, failed) -> answers.add(where(partition.topicPartition()).add(Log.error(failed.orElse(null)))));
        ObjectNode result = result();
        result.set("answers", answers);
        return result;
    }

    private void settled(Map<TopicIdPartition, Set<Long>> offsets, Exception failed) {
        offsets.forEach((partition, several) -> {
            ObjectNode entry = entry("settled").put("topic", partition.topic()).put("partition", partition.partition());
            ArrayNode told = list();
            several.forEach(told::add);
            entry.set("offsets", told);
            entry.set("error", Log.error(failed));
            say(entry);
        });
    }
}

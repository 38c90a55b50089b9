import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** A consumer, with or without a group. */
final class Consuming extends Handle implements ConsumerRebalanceListener {
    private static final Duration TURN = Duration.ofMillis(50);

    private KafkaConsumer<byte[], byte[]> consumer;
    private final Map<String, ConsumerRecord<byte[], byte[]>> held = new ConcurrentHashMap<>();
    private final Map<TopicPartition, Long> next = new ConcurrentHashMap<>();
    private boolean committing;
    private long changed = System.nanoTime();

    Consuming(KafkaTruth process, String name, JsonNode options) {
        super(process, name, options);
    }

    @Override
    void open() {
        Properties settings = settings();
        if (options.hasNonNull("group")) {
            settings.put("group.id", options.get("group").asText());
        }
        boolean automatic = options.path("auto_commit").asInt(0) > 0;
        settings.put("enable.auto.commit", automatic);
        settings.put("auto.commit.interval.ms", Math.max(1, options.path("auto_commit").asInt(0)));
        settings.put("auto.offset.reset", options.path("reset").asText("earliest"));
        settings.put("isolation.level", options.path("isolation").asText("read_uncommitted"));
        settings.put("max.poll.records", options.path("max_poll").asText("500"));
        settings.put("fetch.max.wait.ms", "100");
        settings.put("metadata.max.age.ms", "2000");
        // Sees every commit, also those that nobody asked for.
        settings.put("interceptor.classes", List.of(Commits.class.getName()));
        settings.put("acktrail.consumer", this);
        if (options.path("protocol").asText("classic").equals("consumer")) {
            settings.put("group.protocol", "consumer");
        } else {
            settings.put("session.timeout.ms", options.path("session").asText("6000"));
            settings.put("heartbeat.interval.ms", "500");
            if (options.path("assignor").asText("range").equals("cooperative")) {
                settings.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
            } else {
                settings.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor");
            }
        }
        if (options.hasNonNull("instance")) {
            settings.put("group.instance.id", options.get("instance").asText());
        }
        given(settings);
        opened("consumer");
        consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    @Override
    ObjectNode run(String what, JsonNode command) {
        switch (what) {
            case "subscribe" -> {
                List<String> topics = new ArrayList<>();
                command.get("topics").forEach(topic -> topics.add(topic.asText()));
                consumer.subscribe(topics, this);
            }
            case "assign" -> assign(command.get("partitions"));
            case "poll" -> {
                return poll(command);
            }
            case "commit" -> {
                return commit(command.path("offsets"));
            }
            case "seek" -> {
                TopicPartition partition = partition(command.get("to"));
                long offset = command.get("to").get(2).asLong();
                ObjectNode entry = entry("seek");
                entry.set("to", where(partition).add(offset));
                say(entry);
                consumer.seek(partition, offset);
                next.put(partition, offset);
            }
            case "pause" -> hold("paused", command, consumer::pause);
            case "resume" -> hold("resumed", command, consumer::resume);
            case "positions" -> positions();
            case "close" -> close(command.path("leave").asBoolean(true));
            default -> {
                return null;
            }
        }
        return result();
    }

    ConsumerRecord<byte[], byte[]> held(TopicPartition partition, long offset) {
        return held.get(partition + "/" + offset);
    }

    Map<TopicPartition, Long> next() {
        return next;
    }

    ConsumerGroupMetadata metadata() {
        return consumer.groupMetadata();
    }

    private void assign(JsonNode partitions) {
        List<TopicPartition> assigned = new ArrayList<>();
        partitions.forEach(each -> assigned.add(partition(each)));
        consumer.assign(assigned);
        moved("assigned", assigned);
        partitions.forEach(each -> {
            if (each.hasNonNull(2)) {
                consumer.seek(partition(each), each.get(2).asLong());
            }
        });
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
            long silence = (System.nanoTime() - Math.max(quiet, changed)) / 1_000_000;
            complete = (!command.hasNonNull("records") || records.size() >= command.get("records").asInt())
                && (!command.hasNonNull("assigned") || consumer.assignment().size() == command.get("assigned").asInt())
                && (!command.hasNonNull("idle") || silence >= command.get("idle").asLong());
        }
        ObjectNode result = result().put("complete", complete).put("assigned", consumer.assignment().size());
        result.set("records", records);
        return result;
    }

    private ArrayNode handed(ConsumerRecord<byte[], byte[]> record) {
        TopicPartition partition = new TopicPartition(record.topic(), record.partition());
        say(entry("handed").put("topic", record.topic()).put("partition", record.partition()).put("offset", record.offset())
            .put("label", label(record.value())));
        held.put(partition + "/" + record.offset(), record);
        next.put(partition, record.offset() + 1);
        return identity(record);
    }

    private ObjectNode commit(JsonNode offsets) {
        Map<TopicPartition, OffsetAndMetadata> asked = new HashMap<>();
        offsets.forEach(each -> asked.put(partition(each), new OffsetAndMetadata(each.get(2).asLong())));
        boolean explicit = !offsets.isMissingNode() && !offsets.isNull();
        if (!explicit) {
            for (TopicPartition partition : consumer.assignment()) {
                asked.put(partition, new OffsetAndMetadata(consumer.position(partition)));
            }
        }
        say(offsets(entry("committing").put("how", "sync"), asked));
        committing = true;
        KafkaException failed = null;
        try {
            if (explicit) {
                consumer.commitSync(asked);
            } else {
                consumer.commitSync();
            }
        } catch (KafkaException refused) {
            failed = refused;
        }
        committing = false;
        ObjectNode committed = offsets(entry("committed").put("how", "sync"), asked);
        committed.set("error", Log.error(failed));
        say(committed);
        ObjectNode result = result();
        result.set("error", Log.error(failed));
        return result;
    }

    private static ObjectNode offsets(ObjectNode entry, Map<TopicPartition, OffsetAndMetadata> offsets) {
        ArrayNode told = list();
        offsets.forEach((partition, offset) -> told.add(where(partition).add(offset.offset())));
        entry.set("offsets", told);
        return entry;
    }

    void noticed(Map<TopicPartition, OffsetAndMetadata> offsets) {
        if (!committing) {
            say(offsets(entry("committed").put("how", "auto").putNull("error"), offsets));
        }
    }

    private interface Change {
        void of(Collection<TopicPartition> partitions);
    }

    private void hold(String op, JsonNode command, Change change) {
        List<TopicPartition> partitions = new ArrayList<>();
        command.get("partitions").forEach(each -> partitions.add(partition(each)));
        moved(op, partitions);
        change.of(partitions);
    }

    /** How far this consumer has come, and how far the log went when it last heard of it. */
    private void positions() {
        ArrayNode told = list();
        for (TopicPartition partition : consumer.assignment()) {
            try {
                long position = consumer.position(partition, Duration.ofSeconds(2));
                OptionalLong lag = consumer.currentLag(partition);
                told.add(where(partition).add(position).add(lag.isPresent() ? position + lag.getAsLong() : null));
            } catch (KafkaException unknown) {
                told.add(where(partition).addNull().addNull());
            }
        }
        ObjectNode entry = entry("positions");
        entry.set("partitions", told);
        say(entry);
    }

    private void close(boolean leave) {
        positions();
        say(entry("closing").put("leave", leave));
        consumer.close(CloseOptions.groupMembershipOperation(
            leave ? CloseOptions.GroupMembershipOperation.LEAVE_GROUP : CloseOptions.GroupMembershipOperation.REMAIN_IN_GROUP));
        say(entry("closed"));
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        moved("assigned", partitions);
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        moved("revoked", partitions);
        partitions.forEach(next::remove);
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        moved("lost", partitions);
        partitions.forEach(next::remove);
    }

    private void moved(String op, Collection<TopicPartition> partitions) {
        changed = System.nanoTime();
        ArrayNode told = list();
        partitions.forEach(partition -> told.add(where(partition)));
        ObjectNode entry = entry(op);
        entry.set("partitions", told);
        say(entry);
    }

    /** Tells a consumer of its commits. */
    public static final class Commits implements ConsumerInterceptor<byte[], byte[]> {
        private Consuming consuming;

        @Override
        public void configure(Map<String, ?> settings) {
            consuming = (Consuming) new TreeMap<>(settings).get("acktrail.consumer");
        }

        @Override
        public ConsumerRecords<byte[], byte[]> onConsume(ConsumerRecords<byte[], byte[]> records) {
            return records;
        }

        @Override
        public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {
            consuming.noticed(offsets);
        }

        @Override
        public void close() {}
    }
}

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConfirmListener;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.impl.NetworkConnection;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * The core scenarios by the Java client: {@code TruthClient URL PREFIX ids|anon FLOW}. Prints a truth log (tests/brokers/truth/log.py) to
 * standard output.
 */
public final class TruthClient {
    private final String url;
    private final String prefix;
    private final boolean ids;

    private TruthClient(String[] words) {
        url = words[0];
        prefix = words[1];
        ids = words[2].equals("ids");
    }

    public static void main(String[] words) throws Exception {
        TruthClient client = new TruthClient(words);
        switch (words[3]) {
            case "ack" -> client.flow(30, true, new Plain());
            case "auto" -> client.flow(30, false, new Automatic());
            case "requeue" -> client.flow(10, false, new Requeue());
            case "dead" -> client.dead(10);
            case "multiple" -> client.flow(25, true, new Multiple(25));
            default -> throw new IllegalArgumentException(words[3]);
        }
    }

    /** What a consumer does with a delivery. */
    private interface Habit {
        void on(Seat seat, Envelope envelope) throws IOException;

        default boolean automatic() {
            return false;
        }

        default int deliveries(int messages) {
            return messages;
        }
    }

    private static final class Plain implements Habit {
        public void on(Seat seat, Envelope envelope) throws IOException {
            seat.ack(envelope.getDeliveryTag(), false);
        }
    }

    private static final class Automatic implements Habit {
        public void on(Seat seat, Envelope envelope) {}

        public boolean automatic() {
            return true;
        }
    }

    private static final class Requeue implements Habit {
        public void on(Seat seat, Envelope envelope) throws IOException {
            if (envelope.isRedeliver()) {
                seat.ack(envelope.getDeliveryTag(), false);
            } else {
                seat.refuse(envelope.getDeliveryTag(), "nack", true);
            }
        }

        public int deliveries(int messages) {
            return 2 * messages;
        }
    }

    private static final class Rejecting implements Habit {
        public void on(Seat seat, Envelope envelope) throws IOException {
            seat.refuse(envelope.getDeliveryTag(), "reject", false);
        }
    }

    private record Multiple(int last) implements Habit {
        public void on(Seat seat, Envelope envelope) throws IOException {
            long tag = envelope.getDeliveryTag();
            if (tag % 10 == 0 || tag == last) {
                seat.ack(tag, true);
            }
        }
    }

    private void flow(int messages, boolean confirms, Habit habit) throws Exception {
        String queue = prefix + ".work";
        try (Connection publishing = connect(); Connection consuming = connect()) {
            Channel channel = publishing.createChannel();
            declare(channel, queue, Map.of(), "{\"drop\":true}");
            publish(channel, port(publishing), queue, messages, confirms);
            Seat seat = new Seat(consuming, queue, habit, messages);
            seat.finish();
        }
    }

    private void dead(int messages) throws Exception {
        String work = prefix + ".work";
        String dead = prefix + ".dead";
        try (Connection publishing = connect(); Connection consuming = connect(); Connection draining = connect()) {
            Channel channel = publishing.createChannel();
            declare(channel, dead, Map.of(), "{\"drop\":true}");
            Map<String, Object> arguments = Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", dead);
            declare(channel, work, arguments, "{\"dead\":" + quote(dead) + "}");
            publish(channel, port(publishing), work, messages, false);
            Seat drain = new Seat(draining, dead, new Plain(), messages);
            Seat seat = new Seat(consuming, work, new Rejecting(), messages);
            seat.finish();
            drain.finish();
        }
    }

    private Connection connect() throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(url);
        Connection connection = factory.newConnection(prefix + ".java");
        say("\"op\":\"note\",\"text\":\"connected\",\"port\":" + port(connection) + ",\"pid\":"
            + ProcessHandle.current().pid() + ",\"vhost\":\"/\"");
        return connection;
    }

    private static int port(Connection connection) {
        return ((NetworkConnection) connection).getLocalPort();
    }

    private static void declare(Channel channel, String queue, Map<String, Object> arguments, String fate) throws IOException {
        channel.queueDeclare(queue, false, false, false, arguments);
        say("\"op\":\"queue\",\"queue\":" + quote(queue) + ",\"fate\":" + fate);
    }

    private void publish(Channel channel, int port, String queue, int messages, boolean confirms) throws Exception {
        TreeMap<Long, String> waiting = new TreeMap<>();
        if (confirms) {
            channel.confirmSelect();
            channel.addConfirmListener(new ConfirmListener() {
                public void handleAck(long tag, boolean multiple) {
                    synchronized (waiting) {
                        Map<Long, String> done = multiple ? waiting.headMap(tag, true) : waiting.subMap(tag, true, tag, true);
                        for (String key : done.values()) {
                            say("\"op\":\"confirm\",\"key\":" + quote(key) + ",\"multiple\":" + multiple);
                        }
                        done.clear();
                        waiting.notifyAll();
                    }
                }

                public void handleNack(long tag, boolean multiple) {
                    throw new IllegalStateException("refused");
                }
            });
        }
        for (int n = 0; n < messages; n++) {
            String key = prefix + "/" + n;
            byte[] body = (key + "|" + "j".repeat(n * 37)).getBytes(StandardCharsets.UTF_8);
            AMQP.BasicProperties.Builder properties = new AMQP.BasicProperties.Builder().contentType("text/plain").deliveryMode(1);
            if (ids) {
                properties.messageId(key);
            }
            synchronized (waiting) {
                if (confirms) {
                    waiting.put(channel.getNextPublishSeqNo(), key);
                }
                say("\"op\":\"publish\",\"key\":" + quote(key) + ",\"id\":" + (ids ? quote(key) : "null")
                    + ",\"exchange\":\"\",\"rk\":" + quote(queue) + ",\"mandatory\":false,\"size\":" + body.length
                    + ",\"chan\":" + quote(port + "/" + channel.getChannelNumber() + "/0") + ",\"tx\":null,\"confirms\":" + confirms);
            }
            channel.basicPublish("", queue, properties.build(), body);
        }
        synchronized (waiting) {
            while (!waiting.isEmpty()) {
                waiting.wait(20_000);
            }
        }
    }

    /** A consumer on a channel of its own. */
    private final class Seat extends DefaultConsumer {
        private final String queue;
        private final Habit habit;
        private final String chan;
        private final CountDownLatch left;
        private final List<Long> outstanding = new ArrayList<>();

        Seat(Connection connection, String queue, Habit habit, int messages) throws IOException {
            super(connection.createChannel());
            this.queue = queue;
            this.habit = habit;
            this.chan = port(connection) + "/" + getChannel().getChannelNumber() + "/0";
            this.left = new CountDownLatch(habit.deliveries(messages));
            getChannel().basicConsume(queue, habit.automatic(), prefix + ".ctag-" + chan, this);
        }

        void finish() throws Exception {
            if (!left.await(30, TimeUnit.SECONDS)) {
                throw new IllegalStateException(left.getCount() + " deliveries did not come");
            }
            // A synchronous method behind the last settlement: when it is answered, the broker has them all.
            getChannel().basicQos(0);
        }

        @Override
        public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties properties, byte[] body) throws IOException {
            String key = new String(body, StandardCharsets.UTF_8).split("\\|", 2)[0];
            say("\"op\":\"deliver\",\"key\":" + quote(key) + ",\"id\":" + (ids ? quote(key) : "null") + ",\"queue\":" + quote(queue)
                + ",\"chan\":" + quote(chan) + ",\"tag\":" + envelope.getDeliveryTag() + ",\"ctag\":" + quote(tag)
                + ",\"redelivered\":" + envelope.isRedeliver() + ",\"exchange\":" + quote(envelope.getExchange())
                + ",\"rk\":" + quote(envelope.getRoutingKey()) + ",\"auto\":" + habit.automatic()
                + ",\"get\":false,\"read\":true,\"deaths\":" + deaths(properties) + ",\"counts\":null");
            if (!habit.automatic()) {
                outstanding.add(envelope.getDeliveryTag());
            }
            habit.on(this, envelope);
            left.countDown();
        }

        void ack(long tag, boolean multiple) throws IOException {
            settle(tag, "ack", "null", multiple);
            getChannel().basicAck(tag, multiple);
        }

        void refuse(long tag, String how, boolean requeue) throws IOException {
            settle(tag, how, Boolean.toString(requeue), false);
            if (how.equals("nack")) {
                getChannel().basicNack(tag, false, requeue);
            } else {
                getChannel().basicReject(tag, requeue);
            }
        }

        private void settle(long tag, String how, String requeue, boolean multiple) {
            List<Long> tags = new ArrayList<>();
            for (long held : outstanding) {
                if (held == tag || (multiple && held < tag)) {
                    tags.add(held);
                }
            }
            outstanding.removeAll(tags);
            say("\"op\":\"settle\",\"chan\":" + quote(chan) + ",\"tags\":" + tags + ",\"how\":" + quote(how) + ",\"requeue\":" + requeue
                + ",\"multiple\":" + multiple + ",\"tx\":null");
        }
    }

    private static String deaths(AMQP.BasicProperties properties) {
        Map<String, Object> headers = properties.getHeaders() == null ? new HashMap<>() : properties.getHeaders();
        List<String> all = new ArrayList<>();
        if (headers.get("x-death") instanceof List<?> entries) {
            for (Object entry : entries) {
                Map<?, ?> table = (Map<?, ?>) entry;
                all.add("[" + quote(table.get("queue").toString()) + "," + quote(table.get("reason").toString()) + "," + table.get("count")
                    + "]");
            }
        }
        return "[" + String.join(",", all) + "]";
    }

    private static String quote(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
    }

    private static synchronized void say(String fields) {
        long now = System.currentTimeMillis() * 1_000_000;
        System.out.println("{\"t\":" + now + "," + fields + "}");
    }
}

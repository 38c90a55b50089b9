import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The Java client as a child process of the truth tests: {@code KafkaTruth}. Commands come as JSON lines on standard input and are
 * answered on standard output (tests/brokers/truth/kafka/client.py has the language); what is done and seen goes to the truth log.
 */
public final class KafkaTruth {
    static final ObjectMapper JSON = new ObjectMapper();

    private final Log log = new Log();
    private final Map<String, Handle> handles = new ConcurrentHashMap<>();
    private final PrintStream answers = System.out;

    public static void main(String[] words) throws Exception {
        KafkaTruth process = new KafkaTruth();
        // Libraries print where they like; answers are alone on standard output.
        System.setOut(System.err);
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String line;
        while ((line = commands.readLine()) != null) {
            process.take(JSON.readTree(line));
        }
        System.exit(0);
    }

    private void take(JsonNode command) {
        try {
            switch (command.path("do").asText()) {
                case "log" -> {
                    log.open(Path.of(command.get("path").asText()));
                    answer(command, JSON.createObjectNode(), null);
                }
                case "open" -> open(command);
                default -> handles.get(command.get("handle").asText()).queue(command);
            }
        } catch (Exception fault) {
            answer(command, null, fault);
        }
    }

    private void open(JsonNode command) {
        String name = command.get("handle").asText();
        JsonNode options = command.path("options");
        Handle handle = switch (command.get("kind").asText()) {
            case "producer" -> new Producing(this, name, options);
            case "consumer" -> new Consuming(this, name, options);
            case "share" -> new Sharing(this, name, options);
            case "admin" -> new Administering(this, name, options);
            default -> throw new IllegalArgumentException(command.toString());
        };
        handles.put(name, handle);
        handle.begin(command);
    }

    Log log() {
        return log;
    }

    Handle handle(String name) {
        return handles.get(name);
    }

    void forget(String name) {
        handles.remove(name);
    }

    /** Answers a command with its result, or with what went wrong. */
    void answer(JsonNode command, ObjectNode result, Exception fault) {
        ObjectNode line = JSON.createObjectNode().put("id", command.path("id").asInt());
        if (fault == null) {
            line.set("result", result);
        } else {
            fault.printStackTrace();
            line.put("fault", fault.toString());
        }
        synchronized (answers) {
            answers.println(line);
            answers.flush();
        }
    }
}

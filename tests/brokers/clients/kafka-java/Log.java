import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Instant;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.protocol.Errors;

/** The truth log of the scenario that is running (tests/brokers/truth/kafka/log.py). */
final class Log {
    private FileOutputStream file;

    synchronized void open(Path path) throws IOException {
        if (file != null) {
            file.close();
        }
        file = new FileOutputStream(path.toFile(), true);
    }

    static ObjectNode entry(String op, String handle) {
        Instant now = Instant.now();
        return KafkaTruth.JSON.createObjectNode().put("t", now.getEpochSecond() * 1_000_000_000L + now.getNano()).put("op", op)
            .put("handle", handle);
    }

    /** One line, in one write: other processes append to the same file. */
    synchronized void add(ObjectNode entry) {
        try {
            file.write((entry + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        }
    }

    /** A broker's error by its code and name; one of the client's own has no code. */
    static ObjectNode error(Throwable failed) {
        if (failed == null) {
            return null;
        }
        Errors known = failed instanceof ApiException ? Errors.forException(failed) : Errors.UNKNOWN_SERVER_ERROR;
        ObjectNode error = KafkaTruth.JSON.createObjectNode();
        if (known == Errors.UNKNOWN_SERVER_ERROR) {
            return error.putNull("code").put("name", failed.getClass().getSimpleName());
        }
        return error.put("code", known.code()).put("name", known.name());
    }
}

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.HexFormat;

import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.message.ConsumerProtocolAssignment;
import org.apache.kafka.common.message.ConsumerProtocolSubscription;
import org.apache.kafka.common.message.RequestHeaderData;
import org.apache.kafka.common.message.ResponseHeaderData;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;

/**
 * Reads messages with Kafka's own classes and writes them again. A line of the input is a message: what it is, its API key, its
 * version, its bytes in hexadecimal digits. The answer is `ok` if all bytes were read and the same were written, else what is
 * wrong.
 */
public class ReadBodies {
    public static void main(String[] arguments) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        StringBuilder answers = new StringBuilder();
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String answer;
            try {
                answer = check(line.split(" "));
            } catch (Exception error) {
                answer = error.toString().replace('\n', ' ');
            }
            answers.append(answer).append('\n');
        }
        System.out.print(answers);
    }

    private static String check(String[] words) {
        short key = Short.parseShort(words[1]), version = Short.parseShort(words[2]);
        byte[] bytes = words.length > 3 ? HexFormat.of().parseHex(words[3]) : new byte[0];
        ByteBuffer input = ByteBuffer.wrap(bytes), output = ByteBuffer.allocate(2 * bytes.length + 1000);
        switch (words[0]) {
            case "request" -> {
                ApiMessageType type = ApiMessageType.fromApiKey(key);
                copy(new RequestHeaderData(), type.requestHeaderVersion(version), input, output);
                copy(type.newRequest(), version, input, output);
            }
            case "response" -> {
                ApiMessageType type = ApiMessageType.fromApiKey(key);
                copy(new ResponseHeaderData(), type.responseHeaderVersion(version), input, output);
                copy(type.newResponse(), version, input, output);
            }
            case "ConsumerProtocolAssignment" -> copy(new ConsumerProtocolAssignment(), version, input, output);
            case "ConsumerProtocolSubscription" -> copy(new ConsumerProtocolSubscription(), version, input, output);
            default -> throw new IllegalArgumentException(words[0]);
        }
        if (input.hasRemaining()) {
            return input.remaining() + " bytes were not read";
        }
        return output.flip().equals(ByteBuffer.wrap(bytes)) ? "ok" : "other bytes were written";
    }

    private static void copy(Message message, short version, ByteBuffer input, ByteBuffer output) {
        message.read(new ByteBufferAccessor(input), version);
        ObjectSerializationCache cache = new ObjectSerializationCache();
        message.size(cache, version);
        message.write(new ByteBufferAccessor(output), cache, version);
    }
}

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.SharePartitionOffsetInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;

/** What only the Java client can ask of a broker: about share groups. */
final class Administering extends Handle {
    private Admin admin;

    Administering(KafkaTruth process, String name, JsonNode options) {
        super(process, name, options);
    }

    @Override
    void open() {
        admin = Admin.create(settings());
    }

    @Override
    ObjectNode run(String what, JsonNode command) throws Exception {
        switch (what) {
            case "group_config" -> {
                ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, command.get("group").asText());
                List<AlterConfigOp> changes = new ArrayList<>();
                command.get("configs").properties().forEach(each -> changes.add(
                    new AlterConfigOp(new ConfigEntry(each.getKey(), each.getValue().asText()), AlterConfigOp.OpType.SET)));
                admin.incrementalAlterConfigs(Map.of(group, changes)).all().get();
            }
            case "share_offsets" -> {
                return shareOffsets(command.get("group").asText());
            }
            case "close" -> admin.close();
            default -> {
                return null;
            }
        }
        return result();
    }

    private ObjectNode shareOffsets(String group) throws Exception {
        Map<TopicPartition, SharePartitionOffsetInfo> known = admin.listShareGroupOffsets(Map.of(group, new ListShareGroupOffsetsSpec()))
            .partitionsToOffsetInfo(group).get();
        ArrayNode offsets = list();
        known.forEach((partition, info) -> {
            if (info != null) {
                offsets.add(where(partition).add(info.startOffset()).add(info.lag().orElse(null)));
            }
        });
        ObjectNode result = result();
        result.set("offsets", offsets);
        return result;
    }
}

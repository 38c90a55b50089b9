//! What the fields of requests and responses mean to us. Many messages share a meaning, whatever each calls the field.

/// Fields that hold groups' subscriptions and assignments: as long as their lists of partitions.
const LONGEST_MEMBERSHIP: u32 = 64 << 10;
/// Names. Topics have at most 249 bytes; groups, members and transactional ids may have more, but hardly do.
const LONGEST_NAME: u32 = 1 << 10;

macro_rules! fields {
    ($($(#[doc = $doc:literal])* $name:ident $word:literal,)*) => {
        /// The meaning of a field. Words in the plural, and *-ed* ones, are of structs, and of the elements of arrays.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field {
            $($(#[doc = $doc])* $name,)*
        }

        impl Field {
            /// All of them.
            pub const ALL: &'static [Field] = &[$(Field::$name,)*];

            /// The word for it in `layouts.txt`.
            pub fn word(self) -> &'static str {
                match self {
                    $(Field::$name => $word,)*
                }
            }
        }
    };
}

fields! {
    /// An element for each topic.
    Topics "topics",
    /// A topic's name.
    Topic "topic",
    /// A topic's id, which a topic that is made again under the same name does not have.
    TopicId "topic_id",
    /// The topic is the broker's own.
    Internal "internal",
    /// An element for each partition of a topic.
    Partitions "partitions",
    /// A partition's index.
    Partition "partition",
    /// The record batches: a stream of their own.
    Records "records",
    /// An error number; of the innermost element that it is in.
    ErrorCode "error_code",

    /// How many replicas must have the records before the broker answers: 0, 1, or -1 for all in sync. None answers 0.
    Acks "acks",
    /// The offset that the broker gave to the first record of a batch.
    BaseOffset "base_offset",
    /// The time that the broker gave to a batch, in milliseconds; -1 if the records keep their own.
    LogAppendTime "log_append_time",
    /// The first offset that is still in the log.
    LogStartOffset "log_start_offset",
    /// An element for each record that was the cause of a batch's refusal.
    RecordErrors "record_errors",
    /// Which record of the batch, from 0.
    BatchIndex "batch_index",
    /// Struct: the leader that the broker knows, where it is not the one that was asked.
    CurrentLeader "current_leader",
    /// The broker that leads a partition.
    Leader "leader",
    /// The number of that broker's leadership.
    LeaderEpoch "leader_epoch",

    /// The broker that fetches as a replica; negative for consumers.
    Replica "replica",
    /// 1 is read_committed, 0 read_uncommitted.
    Isolation "isolation",
    /// The number of a fetch session; 0 is none.
    Session "session",
    /// The number of a request within its fetch or share session. 0 opens one, -1 closes it.
    SessionEpoch "session_epoch",
    /// The first offset that is wanted.
    FetchOffset "fetch_offset",
    /// An element for each topic of which partitions leave the session.
    Forgotten "forgotten",
    /// The offset behind the last record that consumers may see.
    HighWatermark "high_watermark",
    /// The first offset of the oldest open transaction.
    LastStableOffset "last_stable_offset",
    /// An element for each aborted transaction of a fetched range.
    Aborted "aborted",
    /// The first offset of a range.
    FirstOffset "first_offset",
    /// The last offset of a range, which belongs to it.
    LastOffset "last_offset",
    /// The replica that the consumer had better fetch from.
    PreferredReplica "preferred_replica",
    /// A record's time in milliseconds; when asking for an offset -1 is the latest, -2 the earliest, and so on.
    Timestamp "timestamp",
    /// The offset that was found for a time.
    Offset "offset",

    /// An element for each broker.
    Nodes "nodes",
    /// A broker's number.
    Node "node",
    /// A broker's host name or address.
    Host "host",
    /// A broker's port.
    Port "port",
    /// The cluster's id.
    Cluster "cluster",
    /// The broker that is the controller.
    Controller "controller",
    /// An element for each coordinator asked for.
    Coordinators "coordinators",
    /// The group or the transactional id whose coordinator is asked for.
    CoordinatorKey "coordinator_key",
    /// What the key is: 0 a group, 1 a transactional id, 2 a share partition.
    CoordinatorType "coordinator_type",
    /// What the client calls itself.
    ClientId "client_id",
    /// The client library.
    SoftwareName "software_name",
    /// The client library's version.
    SoftwareVersion "software_version",
    /// The mechanism of a login.
    Mechanism "mechanism",
    /// What is secret: bytes of a login. No visitor gets to see them.
    Secret "secret",

    /// An element for each group.
    Groups "groups",
    /// A group's id.
    Group "group",
    /// An element for each member of a group.
    Members "members",
    /// A member's id.
    Member "member",
    /// A static member's own name.
    Instance "instance",
    /// The number of a group's generation, or of a member's epoch: both fence.
    Generation "generation",
    /// The member that leads a group.
    GroupLeader "group_leader",
    /// What a classic group's members have in common: `consumer`, `connect`.
    ProtocolType "protocol_type",
    /// An element for each assignor that a member can use.
    Protocols "protocols",
    /// An assignor's name.
    Protocol "protocol",
    /// A member's subscription, a message of its own.
    Subscription "subscription",
    /// A member's assignment, a message of its own.
    Assignment "assignment",
    /// After so many milliseconds without a heartbeat a member is expired.
    SessionTimeout "session_timeout",
    /// So many milliseconds members have to join, or to give partitions back.
    RebalanceTimeout "rebalance_timeout",
    /// A topic's name that a member subscribes to. Null: as before.
    Subscribed "subscribed",
    /// A regular expression of topics' names that a member subscribes to.
    SubscribedRegex "subscribed_regex",
    /// An element for each topic of which a member owns partitions. Null: as before.
    Owned "owned",
    /// Struct: what the broker assigns to a member. Null: as before.
    Assigned "assigned",
    /// The offset that a group has committed: the first one that it has not read.
    CommittedOffset "committed_offset",

    /// An element for each transaction.
    Transactions "transactions",
    /// A transactional id.
    TransactionalId "transactional_id",
    /// A producer's number.
    ProducerId "producer_id",
    /// The number of that producer's incarnation.
    ProducerEpoch "producer_epoch",
    /// The transaction ends with a commit, not with an abort.
    Committed "committed",
    /// The broker only asks whether the partition is in the transaction.
    VerifyOnly "verify_only",

    /// An element for each range of offsets that is acknowledged.
    Acknowledgements "acknowledgements",
    /// 0 gap, 1 accept, 2 release, 3 reject, 4 renew; one for each offset of the range, or one for all.
    AcknowledgeType "acknowledge_type",
    /// The error of the acknowledgements that came with a share fetch.
    AcknowledgeError "acknowledge_error",
    /// An element for each range of offsets that the member was given to work on.
    Acquired "acquired",
    /// How often the records of a range were given, with this time.
    DeliveryCount "delivery_count",
    /// After so many milliseconds the broker takes back what was acquired.
    LockTimeout "lock_timeout",
    /// The request renews acquisitions and fetches nothing.
    Renew "renew",
}

impl Field {
    /// The meaning with this word.
    pub fn find(word: &str) -> Option<Field> {
        Field::ALL.iter().copied().find(|field| field.word() == word)
    }

    /// The longest text or bytes that are told of this field; longer ones are [`Unknown`](super::Value::Unknown).
    pub(super) fn longest(self) -> u32 {
        match self {
            Field::Subscription | Field::Assignment => LONGEST_MEMBERSHIP,
            _ => LONGEST_NAME,
        }
    }
}

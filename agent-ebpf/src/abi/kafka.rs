//! What requests to Kafka are counted as: numbers and names.

use super::named_enum;

named_enum! {
    /// A kind of request, by its name in the protocol ("API key"): the key and 1, so that 0 is any other.
    pub enum KafkaApi {
        /// Any other.
        Other = 0 => "_OTHER",
        /// Key 0.
        Produce = 1 => "Produce",
        /// Key 1; waits for messages by design.
        Fetch = 2 => "Fetch",
        /// Key 2.
        ListOffsets = 3 => "ListOffsets",
        /// Key 3.
        Metadata = 4 => "Metadata",
        /// Key 8.
        OffsetCommit = 9 => "OffsetCommit",
        /// Key 9.
        OffsetFetch = 10 => "OffsetFetch",
        /// Key 10.
        FindCoordinator = 11 => "FindCoordinator",
        /// Key 11; waits for the other members of the group.
        JoinGroup = 12 => "JoinGroup",
        /// Key 12.
        Heartbeat = 13 => "Heartbeat",
        /// Key 13.
        LeaveGroup = 14 => "LeaveGroup",
        /// Key 14; waits for the leader of the group.
        SyncGroup = 15 => "SyncGroup",
        /// Key 15.
        DescribeGroups = 16 => "DescribeGroups",
        /// Key 16.
        ListGroups = 17 => "ListGroups",
        /// Key 17.
        SaslHandshake = 18 => "SaslHandshake",
        /// Key 18.
        ApiVersions = 19 => "ApiVersions",
        /// Key 19.
        CreateTopics = 20 => "CreateTopics",
        /// Key 20.
        DeleteTopics = 21 => "DeleteTopics",
        /// Key 22.
        InitProducerId = 23 => "InitProducerId",
        /// Key 24.
        AddPartitionsToTxn = 25 => "AddPartitionsToTxn",
        /// Key 25.
        AddOffsetsToTxn = 26 => "AddOffsetsToTxn",
        /// Key 26.
        EndTxn = 27 => "EndTxn",
        /// Key 28.
        TxnOffsetCommit = 29 => "TxnOffsetCommit",
        /// Key 32.
        DescribeConfigs = 33 => "DescribeConfigs",
        /// Key 36.
        SaslAuthenticate = 37 => "SaslAuthenticate",
        /// Key 60.
        DescribeCluster = 61 => "DescribeCluster",
        /// Key 68; waits as `Fetch` does.
        ConsumerGroupHeartbeat = 69 => "ConsumerGroupHeartbeat",
        /// Key 71.
        GetTelemetrySubscriptions = 72 => "GetTelemetrySubscriptions",
        /// Key 72.
        PushTelemetry = 73 => "PushTelemetry",
    }
}

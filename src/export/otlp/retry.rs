//! When to try again, and when not (OTLP specification, "Failures").

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause, also where the server asks for more.
const LONGEST: Duration = Duration::from_secs(5);
const LONGEST_ASKED: Duration = Duration::from_secs(30);

/// How long to wait before the next try after this answer; `None`: trying again is of no use.
pub(super) fn pause(status: &Status, tries: u32) -> Option<Duration> {
    let asked = retry_delay(status);
    let retryable = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => asked.is_some(),
        // What a connection that cannot be made, or breaks, comes as.
        Code::Unknown => std::error::Error::source(status).is_some(),
        _ => false,
    };
    let own = FIRST.saturating_mul(1 << tries.min(10)).min(LONGEST);
    retryable.then(|| asked.map_or(own, |asked| asked.min(LONGEST_ASKED).max(own)))
}

/// The reason under which undelivered items are counted.
pub(super) fn reason(status: &Status) -> &'static str {
    match status.code() {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The delay of a google.rpc.RetryInfo among the status's details.
fn retry_delay(status: &Status) -> Option<Duration> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay.unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).unwrap_or(0);
    Some(Duration::new(seconds, u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999)))
}

/// google.rpc.Status, as far as it is needed.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// google.protobuf.Any.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// google.rpc.RetryInfo.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// google.protobuf.Duration.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let status = Status::unavailable("");
        let pauses: Vec<_> = (0..20).map(|tries| pause(&status, tries).unwrap()).collect();
        assert_eq!(pauses[0], FIRST);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses[19], LONGEST);
    }

    #[test]
    fn refusals_are_not_tried_again() {
        for code in [Code::InvalidArgument, Code::Unauthenticated, Code::Unimplemented, Code::Internal] {
            assert_eq!(pause(&Status::new(code, ""), 0), None);
        }
    }

    #[test]
    fn an_exhausted_server_is_asked_again_only_when_it_says_so() {
        assert_eq!(pause(&Status::resource_exhausted(""), 0), None);
        let info = RetryInfo { retry_delay: Some(Delay { seconds: 2, nanos: 500_000_000 }) };
        let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() };
        let details = RpcStatus { details: vec![any] }.encode_to_vec();
        let status = Status::with_details(Code::ResourceExhausted, "", details.into());
        assert_eq!(pause(&status, 0), Some(Duration::from_millis(2500)));
        let garbage = Status::with_details(Code::ResourceExhausted, "", vec![0xff; 20].into());
        assert_eq!(pause(&garbage, 0), None);
    }
}

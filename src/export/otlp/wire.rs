//! Calls of OTLP's services with requests that are encoded already, so that sending one again needs no copy of its parts.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{BufMut, Bytes};
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// The methods (collector/trace/v1/trace_service.proto, collector/metrics/v1/metrics_service.proto).
pub(super) const EXPORT_TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub(super) const EXPORT_METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// A service that answers with an `A`.
pub(super) struct Service<A> {
    client: Grpc<Channel>,
    method: PathAndQuery,
    answer: PhantomData<A>,
}

impl<A: Message + Default + 'static> Service<A> {
    pub fn new(channel: Channel, method: &'static str, gzip: bool) -> Service<A> {
        // A server may answer in the encoding that it was asked in (grpc-go does).
        let client = Grpc::new(channel).accept_compressed(CompressionEncoding::Gzip);
        let client = if gzip { client.send_compressed(CompressionEncoding::Gzip) } else { client };
        Service { client, method: PathAndQuery::from_static(method), answer: PhantomData }
    }

    pub async fn export(&mut self, request: Request<Bytes>) -> Result<A, Status> {
        self.client.ready().await.map_err(|error| Status::unknown(format!("service was not ready: {error}")))?;
        let codec = Encoded(PhantomData);
        Ok(self.client.unary(request, self.method.clone(), codec).await?.into_inner())
    }
}

/// Encoded requests, answers to be decoded.
struct Encoded<A>(PhantomData<A>);

impl<A: Message + Default + 'static> Codec for Encoded<A> {
    type Encode = Bytes;
    type Decode = A;
    type Encoder = Encoded<A>;
    type Decoder = Encoded<A>;

    fn encoder(&mut self) -> Self::Encoder {
        Encoded(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Encoded(PhantomData)
    }
}

impl<A> Encoder for Encoded<A> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.len());
        buffer.put(item);
        Ok(())
    }
}

impl<A: Message + Default> Decoder for Encoded<A> {
    type Item = A;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        A::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

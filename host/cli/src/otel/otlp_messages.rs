//! The messages of OTLP 1.x that traces need, some of which metrics need too, with the field numbers of `opentelemetry/proto`.

use kvasm::service::{Span, SpanKind, SpanValue};
use prost::{Message, Oneof};
use std::time::{Duration, SystemTime};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraces {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<OtlpResource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpResource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<OtlpSpan>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InstrumentationScope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    pub(super) links: Vec<OtlpLink>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<SpanStatus>,
    #[prost(fixed32, tag = "16")]
    pub(super) flags: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OtlpLink {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SpanStatus {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "AttributeValue", tags = "1, 2, 3")]
    pub(super) value: Option<AttributeValue>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum AttributeValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;
/// The flag of a sampled trace.
const SAMPLED: u32 = 1;

impl InstrumentationScope {
    /// The scope of all that the host records.
    pub(super) fn of_host() -> InstrumentationScope {
        InstrumentationScope {
            name: "kvasm".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Builds an attribute that is a text.
pub(super) fn text_attribute(key: &str, text: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(AttributeValue::Text(text.to_owned())),
        }),
    }
}

/// Builds the resource, that is this server.
pub(super) fn otlp_resource(attributes: &[(String, String)]) -> OtlpResource {
    let attribute = |(key, text): &(String, String)| text_attribute(key, text);
    OtlpResource {
        attributes: attributes.iter().map(attribute).collect(),
    }
}

/// Builds an export of spans.
pub(super) fn export_spans(resource: &[(String, String)], spans: Vec<Span>) -> ExportTraces {
    ExportTraces {
        resource_spans: vec![ResourceSpans {
            resource: Some(otlp_resource(resource)),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope::of_host()),
                spans: spans.into_iter().map(otlp_span).collect(),
            }],
        }],
    }
}

fn otlp_span(span: Span) -> OtlpSpan {
    let start = span.start.duration_since(SystemTime::UNIX_EPOCH);
    let start = start.unwrap_or_default();
    let trace_id = |id: kvasm::model::TraceId| id.uuid().into_bytes().to_vec();
    let span_id = |id: std::num::NonZeroU64| id.get().to_be_bytes().to_vec();
    let attribute = |(key, value): (&str, SpanValue)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(match value {
                SpanValue::Text(text) => AttributeValue::Text(text.into_owned()),
                SpanValue::Int(number) => AttributeValue::Int(number),
                SpanValue::Bool(value) => AttributeValue::Bool(value),
            }),
        }),
    };
    let link = |(trace, id)| OtlpLink {
        trace_id: trace_id(trace),
        span_id: span_id(id),
    };
    OtlpSpan {
        trace_id: trace_id(span.context.trace_id()),
        span_id: span_id(span.id),
        trace_state: span.context.state().unwrap_or_default().to_owned(),
        parent_span_id: span.parent.map(span_id).unwrap_or_default(),
        name: span.name.into_owned(),
        kind: match span.kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
            SpanKind::Consumer => 5,
        },
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(start.saturating_add(span.took)),
        attributes: span.attributes.into_iter().map(attribute).collect(),
        links: span.link.into_iter().map(link).collect(),
        status: span.error.map(|error| SpanStatus {
            message: error.into_owned(),
            code: ERROR,
        }),
        flags: SAMPLED,
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

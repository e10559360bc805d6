//! One delivery: the handler's input, its run, and its commit.

use super::transaction::Run;
use super::{Host, InvokeError};
use bytes::Bytes;
use kvasm_abi::{FORMAT_BYTES, FORMAT_JSON};
use kvasm_core::{App, Delivery, Digest, Happening, Pieces, PluginVersion, Receipt, Value};
use kvasm_runtime::DeliveryContext;
use kvasm_runtime::{Blame, CallError, Target};
use kvasm_service::{CallContext, Caller, Deadline, ServiceError};
use serde_json::json;
use std::sync::Arc;
use thiserror::Error;
use uuid::Uuid;

/// A handler waits for a CPU and an instance so many times as long as it may run,
/// without using up its time: nobody waits for its answer.
const PATIENCE: u32 = 10;

/// Why a delivery was not carried out.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct DeliverError {
    /// Why.
    #[source]
    pub error: InvokeError,
    /// What was to be run, if that came to be known.
    pub plugin: Option<(PluginVersion, Digest)>,
}

impl InvokeError {
    /// Whether the same delivery would fail in the same way again.
    pub fn is_deterministic(&self) -> bool {
        match self {
            InvokeError::Call(failure) => failure.error.is_deterministic(),
            InvokeError::Service(ServiceError::NoActivePlugin) => true,
            InvokeError::Load(error) => error.blame() != Blame::Host,
            InvokeError::Service(_) | InvokeError::Refused(_) | InvokeError::Timeout(_) => false,
        }
    }

    /// Whether the handler says itself that the same delivery would fail again.
    pub fn is_permanent(&self) -> bool {
        matches!(self, InvokeError::Call(failure) if failure.error.is_permanent())
    }

    /// Whether somebody else has the delivery by now, so that nothing is to be
    /// said of it any more.
    pub fn is_lease_lost(&self) -> bool {
        let InvokeError::Call(failure) = self else {
            return false;
        };
        matches!(
            failure.error,
            CallError::Commit(ServiceError::LeaseLost | ServiceError::AppNotFound)
        )
    }

    /// The request of a call that has failed.
    pub fn request_id(&self) -> Option<Uuid> {
        match self {
            InvokeError::Call(failure) => Some(failure.request_id),
            _ => None,
        }
    }

    /// Where in the plugin it failed, if that is known.
    pub fn trace(&self) -> Option<&str> {
        match self {
            InvokeError::Call(failure) => failure.error.trace(),
            _ => None,
        }
    }

    /// The error without the places of its trace. Of a plugin that has logged its panic,
    /// the message and the place of it.
    pub fn summary(&self) -> String {
        match self {
            InvokeError::Call(failure) => match (&failure.error, failure.log.panic()) {
                (CallError::Trap { .. }, Some(panic)) => format!("the plugin {panic}"),
                (error, _) => error.summary(),
            },
            other => other.to_string(),
        }
    }
}

impl Host {
    /// Runs the handler of a delivery on the active plugin of its app, as a
    /// transaction whose commit also takes the delivery out of its queue. If the
    /// lease of `receipt` does not hold any more by then, nothing of it takes
    /// effect.
    ///
    /// The app's limits of calls are not looked at: the caller bounds how
    /// many deliveries run.
    ///
    /// # Errors
    /// [`DeliverError`]; then nothing was written, and the delivery is still there.
    pub async fn deliver(
        &self,
        app: &App,
        delivery: &Arc<Delivery>,
        receipt: Receipt,
    ) -> Result<(), DeliverError> {
        let plugin = app.active.map(|active| (active.version, active.digest));
        let failed = |error| DeliverError { error, plugin };
        let Some((_, digest)) = plugin else {
            return Err(failed(ServiceError::NoActivePlugin.into()));
        };
        let context = CallContext {
            caller: Caller::handler(app, &delivery.event),
            request_id: Uuid::now_v7(),
            deadline: Deadline::patient(
                self.0.limits.wall_time,
                self.0.limits.wall_time.saturating_mul(PATIENCE),
            ),
        };
        let loaded = self.plugin_of(Arc::new(app.clone()), digest, &context.deadline);
        let plugin = loaded.await.map_err(failed)?;
        let name: Arc<str> = delivery.function.as_str().into();
        let input = input(delivery);
        let target = Target::Handler(Arc::clone(&name));
        let delivered = DeliveryContext {
            trigger: delivery.place.trigger.to_string(),
            event_id: delivery.event.id,
            attempt: delivery.attempts,
            depth: delivery.event.depth,
        };
        let run = Run::new(&plugin, context, target, input).of_delivery(delivered, receipt);
        let result = self.run_transaction(run).await;
        self.keep_log(app.id, name, &result);
        result.map(drop).map_err(|error| failed(error.into()))
    }
}

/// What a handler reads: the event as a JSON head, and the value behind it.
/// It shares the value with the delivery.
fn input(delivery: &Arc<Delivery>) -> Pieces {
    let event = &delivery.event;
    let mut head = json!({
        "kind": event.what.kind(),
        "event_id": event.id,
        "trigger": delivery.place.trigger,
        "attempt": delivery.attempts,
        "depth": event.depth,
        "at_ms": event.at,
    });
    if let Some(members) = head.as_object_mut() {
        let mut put = |name: &str, value| drop(members.insert(name.to_owned(), value));
        match &event.what {
            Happening::Set {
                collection,
                key,
                version,
                value,
            } => {
                put("collection", json!(collection));
                put("key", json!(key));
                put("version", json!(version));
                put("format", json!(format_of(value)));
            }
            Happening::Deleted {
                collection,
                key,
                version,
            } => {
                put("collection", json!(collection));
                put("key", json!(key));
                put("version", json!(version));
            }
            Happening::Due => {}
        }
    }
    let head = head.to_string().into_bytes();
    // A head has a few names, each of at most 1 KiB.
    let prefix = kvasm_abi::http::prefix(head.len()).unwrap_or_default();
    let mut input = Pieces::from([prefix.as_slice(), &head].concat());
    input.push(Bytes::from_owner(ValueOf(Arc::clone(delivery))));
    input
}

/// The value that a delivery is about, as bytes; none if it is about none.
struct ValueOf(Arc<Delivery>);

impl AsRef<[u8]> for ValueOf {
    fn as_ref(&self) -> &[u8] {
        match &self.0.event.what {
            Happening::Set { value, .. } => value.as_bytes(),
            Happening::Deleted { .. } | Happening::Due => &[],
        }
    }
}

fn format_of(value: &Value) -> i32 {
    match value {
        Value::Json(_) => FORMAT_JSON,
        Value::Bytes(_) => FORMAT_BYTES,
    }
}

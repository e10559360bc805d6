//! Webhooks: deliveries that are sent to a URL. Rationale: `docs/decisions/0034-webhooks.md`.

mod cloud_event;
mod signature;

pub(crate) use cloud_event::encode_change;

use super::{
    HttpPermissions, OpenedSecret, Outbound, OutboundBlame, OutboundCaller, OutboundError,
    OutboundRequest, OutboundResponse, OutboundSpan, ServiceError, SpanRecorder,
};
use async_trait::async_trait;
use bytes::Bytes;
use kvasm_core::{
    App, Delivery, HttpOrigin, NotPermitted, SettingName, Timestamp, TraceContext, Use, Webhook,
};
use std::time::{Duration, Instant};
use thiserror::Error;

pub use signature::SigningKeyError;
pub(crate) use signature::SigningKeys;

const METHOD: &str = "POST";
/// The maximum delay that a receiver can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// How often, and for how long, an attempt waits for the app's rate limit. That writes nothing, while
/// each deferral is a write.
const RATE_POLL: Duration = Duration::from_millis(100);
const RATE_WAIT_MAX: Duration = Duration::from_secs(10);
/// When a delivery that was over the app's limits is attempted again.
const OVER_LIMIT_PAUSE: Duration = Duration::from_secs(1);

/// Why a delivery to a URL was not successful.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// The trigger of the delivery was deleted, or calls a function now.
    #[error("the trigger no longer exists or has no URL; create it again, and replay the delivery")]
    NoUrl,
    /// The secret is not set or cannot sign.
    #[error("the secret {name} cannot sign a webhook: {error}")]
    BadSecret {
        /// The name of the secret.
        name: SettingName,
        /// What is wrong with it.
        error: SigningKeyError,
    },
    /// The store failed, or this host cannot open the secret.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// There is no response.
    #[error(transparent)]
    Outbound(OutboundError),
    /// The response does not have a status of success.
    #[error("{origin} answered with status {status}")]
    Status {
        /// The receiver.
        origin: HttpOrigin,
        /// The status.
        status: u16,
        /// The delay that it asks for.
        retry_after: Option<Duration>,
    },
}

impl WebhookError {
    /// Returns whether the next attempt would fail the same way unless someone changes the
    /// configuration.
    pub fn is_deterministic(&self) -> bool {
        match self {
            WebhookError::NoUrl | WebhookError::BadSecret { .. } => true,
            WebhookError::Service(_) => false,
            WebhookError::Outbound(error) => match error.blame() {
                OutboundBlame::Operator => true,
                OutboundBlame::Guest => self.deferral().is_none(),
                OutboundBlame::Remote | OutboundBlame::Host => false,
            },
            WebhookError::Status { .. } => self.is_permanent(),
        }
    }

    /// Returns whether no further attempt is to be made: the receiver says that it is gone, or there
    /// is none.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            WebhookError::NoUrl | WebhookError::Status { status: 410, .. }
        )
    }

    /// Returns the wait after which to send it, if the app's limits did not allow it now. That is no
    /// failure.
    pub fn deferral(&self) -> Option<Duration> {
        match self {
            WebhookError::Outbound(OutboundError::Rate { .. } | OutboundError::Busy) => {
                Some(OVER_LIMIT_PAUSE)
            }
            _ => None,
        }
    }

    /// Returns the minimum wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            WebhookError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The permission of a webhook: exactly its own origin.
struct TriggerPermission<'w>(&'w HttpOrigin);

#[async_trait]
impl HttpPermissions for TriggerPermission<'_> {
    async fn allows_http(&self, origin: &HttpOrigin) -> Result<(), ServiceError> {
        match self.0 == origin {
            true => Ok(()),
            false => Err(NotPermitted::Ungranted(Use::Http(origin.to_string())).into()),
        }
    }
}

/// A delivery to a URL.
pub struct WebhookCall<'c> {
    /// The app.
    pub app: &'c App,
    /// The delivery.
    pub delivery: &'c Delivery,
    /// Where to.
    pub webhook: &'c Webhook,
    /// The app's secret of the name that the webhook has, if it is set.
    pub secret: Option<OpenedSecret>,
    /// The trace context of the delivery.
    pub trace: &'c TraceContext,
    /// Records the span of the request, whose trace context the receiver then gets. Without it the
    /// receiver gets that of the delivery.
    pub recorder: Option<&'c SpanRecorder>,
    /// The time of the attempt.
    pub now: Timestamp,
    /// When the attempt ends.
    pub deadline: Instant,
}

impl WebhookCall<'_> {
    /// Sends the event, signed.
    ///
    /// # Errors
    /// [`WebhookError`], unless the response has a status from 200 to 299.
    pub async fn send(&self, outbound: &dyn Outbound) -> Result<(), WebhookError> {
        let origin = self.webhook.url.origin();
        let keys = self.keys()?;
        let span = OutboundSpan::start(self.recorder, METHOD, origin);
        let trace = span.as_ref().and_then(OutboundSpan::trace);
        let request = self.request(&keys, trace.as_ref().unwrap_or(self.trace))?;
        let caller = OutboundCaller {
            app: self.app.id,
            app_name: self.app.name.as_str(),
            permissions: &TriggerPermission(origin),
            deadline: self.deadline,
        };
        let response = within_the_rate(|| outbound.fetch(caller, request.clone())).await;
        if let Some(span) = span {
            span.end(&response);
        }
        let response = response.map_err(WebhookError::Outbound)?;
        match response.status {
            200..=299 => Ok(()),
            status => Err(WebhookError::Status {
                origin: origin.clone(),
                status,
                retry_after: retry_after(status, &response.headers),
            }),
        }
    }

    fn keys(&self) -> Result<SigningKeys, WebhookError> {
        let keys = SigningKeys::of(self.secret.as_ref());
        keys.map_err(|error| WebhookError::BadSecret {
            name: self.webhook.secret.clone(),
            error,
        })
    }

    fn request(
        &self,
        keys: &SigningKeys,
        trace: &TraceContext,
    ) -> Result<OutboundRequest, WebhookError> {
        let body = cloud_event::encode(&self.app.name, self.delivery, trace);
        let body = body.map_err(|error| {
            ServiceError::Internal(kvasm_core::store::StoreError::Failed(error.into()))
        })?;
        let id = self.delivery.event.id.to_string();
        let timestamp = self.now.0.div_euclid(1_000);
        let mut headers = vec![
            ("content-type", cloud_event::MEDIA_TYPE.to_owned()),
            ("user-agent", "kvasm".to_owned()),
            ("webhook-signature", keys.sign(&id, timestamp, &body)),
            ("webhook-id", id),
            ("webhook-timestamp", timestamp.to_string()),
            ("traceparent", trace.parent()),
        ];
        let state = trace.state();
        headers.extend(state.map(|state| ("tracestate", state.to_owned())));
        let headers = headers.into_iter();
        Ok(OutboundRequest {
            method: METHOD.to_owned(),
            url: self.webhook.url.clone(),
            headers: headers.map(|(n, v)| (n.to_owned(), v)).collect(),
            body: Bytes::from(body),
            timeout: None,
        })
    }
}

/// Sends a request once the app's rate limit allows it, if that is soon.
async fn within_the_rate<F>(mut send: impl FnMut() -> F) -> Result<OutboundResponse, OutboundError>
where
    F: Future<Output = Result<OutboundResponse, OutboundError>>,
{
    let began = Instant::now();
    loop {
        match send().await {
            Err(OutboundError::Rate { .. }) if began.elapsed() < RATE_WAIT_MAX => {
                tokio::time::sleep(RATE_POLL).await;
            }
            sent => return sent,
        }
    }
}

/// Returns the delay that a response asks for. A date is ignored: it depends on the receiver's
/// clock.
fn retry_after(status: u16, headers: &[(String, String)]) -> Option<Duration> {
    if status != 429 && status != 503 {
        return None;
    }
    let header = headers.iter().find(|(name, _)| name == "retry-after");
    let seconds = header?.1.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn webhook_may_reach_its_own_origin_only() {
        let origin = |text: &str| HttpOrigin::parse(text).unwrap();
        let own = origin("https://example.com");
        let permission = TriggerPermission(&own);
        assert!(permission.allows_http(&own).await.is_ok());
        for other in [
            "http://example.com",
            "https://example.com:8443",
            "https://a.example.com",
        ] {
            let other = permission.allows_http(&origin(other)).await;
            assert!(matches!(other, Err(ServiceError::NotPermitted(_))));
        }
    }

    #[test]
    fn receiver_delays_the_next_attempt_by_seconds() {
        let header = |value: &str| vec![("retry-after".to_owned(), value.to_owned())];
        let after = |status, value| retry_after(status, &header(value)).map(|d| d.as_secs());
        assert_eq!(after(429, "7"), Some(7));
        assert_eq!(after(503, " 86400 "), Some(3_600));
        assert_eq!(after(500, "7"), None);
        for bad in [
            "-1",
            "1.5",
            "Fri, 31 Dec 1999 23:59:59 GMT",
            "99999999999999999999",
        ] {
            assert_eq!(after(429, bad), None, "{bad}");
        }
        assert_eq!(retry_after(429, &[]), None);
    }
}

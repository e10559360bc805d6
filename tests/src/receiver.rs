//! A receiver of webhooks.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A request that a receiver got.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Received {
    /// The value of a header.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        value.to_str().unwrap()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A server on loopback that records requests. It ends when it is dropped.
pub struct Receiver {
    /// Its origin.
    pub origin: String,
    /// The requests, in order.
    pub requests: mpsc::UnboundedReceiver<Received>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Starts a receiver that accepts each request.
    pub async fn accepting() -> Receiver {
        Receiver::start(async |_, _| StatusCode::NO_CONTENT).await
    }

    /// Starts a receiver that answers the nth request, from 0, with `answer`, which may wait.
    pub async fn start<A, F, R>(answer: A) -> Receiver
    where
        A: Fn(usize, Received) -> F + Send + Sync + 'static,
        F: Future<Output = R> + Send + 'static,
        R: IntoResponse,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::unbounded_channel();
        let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (answer, sender) = (Arc::clone(&answer), sender.clone());
            let nth = count.fetch_add(1, Ordering::SeqCst);
            let received = Received {
                method,
                target: uri.to_string(),
                headers,
                body,
            };
            async move {
                // The test may have ended.
                let _ = sender.send(received.clone());
                let answer: Response = answer(nth, received).await.into_response();
                answer
            }
        };
        let router = Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Receiver {
            origin,
            requests,
            task,
        }
    }

    /// The next request.
    pub async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(std::time::Duration::from_secs(60), self.requests.recv());
        next.await.expect("a request in time").expect("a request")
    }

    /// How many more requests have arrived.
    pub fn others(&mut self) -> usize {
        let mut others = 0;
        while self.requests.try_recv().is_ok() {
            others += 1;
        }
        others
    }
}

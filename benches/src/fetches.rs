//! `http_fetch` of a server on loopback, compared with the same client outside wasm.

use crate::report::{Row, Target};
use crate::{Bench, Effort, generous};
use anyhow::{Context, Result};
use axum::Router;
use bytes::Bytes;
use kvasm::egress::{Egress, EgressConfig};
use kvasm::metrics::Metrics;
use kvasm::model::{Grant, HttpOrigin, HttpUrl, OriginPattern};
use kvasm::service::{HttpPermissions, Outbound, OutboundCaller, OutboundRequest, ServiceError};
use kvasm::{Call, Plugin};
use kvasm_tests::remote::{fetch, get_head};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Sends as many requests as the input's u32 says.
fn looping(origin: &str) -> Result<Vec<u8>> {
    let (data, call) = fetch(&get_head(origin), "");
    let section = crate::events::manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        &format!(r#"{{"kind":"http_origin","origin":"{origin}"}}"#),
    ]);
    let text = format!(
        r#"(module
          (import "kvasm_v1" "http_fetch" (func $http_fetch (param i32 i32 i32 i32) (result i64)))
          (import "kvasm_v1" "input_read" (func $input (param i32 i32 i32) (result i64)))
          (memory (export "memory") 1) (data (i32.const 0) "{data}") {section}
          (func (export "run") (result i32) (local $left i32)
            (drop (call $input (i32.const 0) (i32.const 4096) (i32.const 4)))
            (local.set $left (i32.load (i32.const 4096)))
            (loop $again
              (if (i64.lt_s {call} (i64.const 0)) (then (return (i32.const 1))))
              (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            (i32.const 0)))"#
    );
    Ok(wat::parse_str(text)?)
}

/// Permits everything.
struct Everything;

#[async_trait::async_trait]
impl HttpPermissions for Everything {
    async fn allows_http(&self, _: &HttpOrigin) -> Result<(), ServiceError> {
        Ok(())
    }
}

fn client(metrics: Metrics) -> Result<Egress> {
    let config = EgressConfig {
        allow_networks: vec!["127.0.0.0/8".parse()?],
        per_second: u32::MAX,
        ..EgressConfig::default()
    };
    Ok(Egress::new(config, metrics)?)
}

/// Returns the time of a request by a guest, in microseconds.
async fn guest(bench: &Bench, plugin: &Plugin, requests: u32) -> Result<f64> {
    let call = Call::function("run").input(requests.to_le_bytes());
    let start = Instant::now();
    bench.host.call(plugin, call).await?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(requests))
}

/// Returns the time of a request without a guest, in microseconds.
async fn outside(bench: &Bench, client: &Egress, url: &HttpUrl, requests: u32) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..requests {
        let caller = OutboundCaller {
            app: bench.app.id,
            app_name: "bench",
            permissions: &Everything,
            deadline: start + Duration::from_secs(120),
        };
        let request = OutboundRequest {
            method: "GET".to_owned(),
            url: url.clone(),
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: None,
        };
        client.fetch(caller, request).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(requests))
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(async || "hello");
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let limits = kvasm::model::Limits {
            fetches: u32::MAX,
            ..generous()
        };
        let inside = client(Metrics::default())?;
        let bench = Bench::new(|builder| builder.limits(limits).outbound(inside)).await?;
        let origins = vec![Grant::HttpOrigin {
            origin: OriginPattern::parse(&origin)?,
        }];
        let (admin, operator) = (bench.host.admin(), bench.host.operator("bench"));
        admin.add_grants(&operator, &bench.app, origins).await?;
        let app = bench.host.app(&bench.app.name).await?.context("no app")?;
        let plugin = bench.host.load(&app, looping(&origin)?).await?;
        let (alone, url) = (
            Arc::new(client(Metrics::default())?),
            HttpUrl::parse(&origin)?,
        );
        let requests = u32::try_from(5_000 / effort.divisor)?;
        let (mut pairs, mut added) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let outside = outside(&bench, &alone, &url, requests).await?;
            let guest = guest(&bench, &plugin, requests).await?;
            pairs.push((guest, outside));
            added.push(guest - outside);
        }
        server.abort();
        Ok(vec![
            Row::pair(
                "http_fetch of 5 bytes on loopback / the same client",
                "us",
                &pairs,
                None,
            ),
            Row::series("http_fetch, more than the same client", "us", &mut added)
                .target(Target::AtMost(150.0)),
        ])
    })
}

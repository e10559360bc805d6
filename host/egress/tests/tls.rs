//! TLS, with a test authority, and HTTP/2.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod kit;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::*;
use kvasm_egress::{Egress, EgressConfig, RootsError};
use kvasm_metrics::Metrics;
use kvasm_service::{OutboundBlame, OutboundError};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        Authority::named("Authority")
    }

    fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A server's certificate for a name, valid in these years.
    fn certify(&self, name: &str, years: (i32, i32), alpn: &[&str]) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    fn trusted(&self) -> Client {
        Client::new(EgressConfig {
            roots_pem: Some(self.pem()),
            ..on_loopback()
        })
    }
}

const NOW: (i32, i32) = (2020, 2100);

/// Answers with the version of HTTP, the authority and the body.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = request.version();
    let authority = match version {
        Version::HTTP_2 => request.uri().authority().unwrap().to_string(),
        _ => request.headers()["host"].to_str().unwrap().to_owned(),
    };
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let text = format!("{version:?} {authority} {}", String::from_utf8_lossy(&body));
    Ok(Response::new(Full::new(text.into())))
}

async fn tls_server(config: Arc<ServerConfig>) -> Server {
    let acceptor = TlsAcceptor::from(config);
    Server::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let is_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let (io, service) = (TokioIo::new(stream), service_fn(echo));
            let _ = match is_2 {
                true => {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await
                }
                false => {
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await
                }
            };
        }
    })
    .await
}

fn https(server: &Server) -> String {
    server.url("/").replace("http:", "https:")
}

#[tokio::test]
async fn server_of_the_operators_authority_is_reached_over_http_1_and_2() {
    let authority = Authority::new();
    for (alpn, version) in [
        (&["h2", "http/1.1"][..], "HTTP/2.0"),
        (&["http/1.1"], "HTTP/1.1"),
        (&[], "HTTP/1.1"),
    ] {
        let server = tls_server(authority.certify("server.test", NOW, alpn)).await;
        let client = authority.trusted();
        for n in 0..20 {
            let sent = client.send(request("POST", &https(&server), "body"));
            let response = sent.await.unwrap_or_else(|error| panic!("{n}: {error}"));
            let port = server.address.port();
            let expected = format!("{version} server.test:{port} body");
            assert_eq!(response.body, expected);
        }
        assert!(server.count() <= 2, "{} connections", server.count());
    }
}

#[tokio::test]
async fn bad_certificates_are_refused() {
    let (authority, other) = (Authority::new(), Authority::named("Other"));
    for (config, expected) in [
        (
            other.certify("server.test", NOW, &[]),
            "not from a trusted authority",
        ),
        (
            authority.certify("server.test", (2020, 2021), &[]),
            "has expired",
        ),
        (
            authority.certify("server.test", (2090, 2100), &[]),
            "not valid yet",
        ),
        (
            authority.certify("other.test", NOW, &[]),
            "for another name",
        ),
        (
            authority.certify("*.server.test", NOW, &[]),
            "for another name",
        ),
    ] {
        let server = tls_server(config).await;
        let client = authority.trusted();
        let error = client.get(&https(&server)).await.unwrap_err();
        assert!(matches!(error, OutboundError::Tls { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.blame(), OutboundBlame::Remote);
        assert!(!error.may_have_been_sent());
        client.wait_for_metric("kvasm_fetch_connections", 0).await;
    }
}

#[tokio::test]
async fn authority_that_the_operator_did_not_name_is_not_trusted() {
    let authority = Authority::new();
    let server = tls_server(authority.certify("server.test", NOW, &[])).await;
    let error = Client::new(on_loopback()).get(&https(&server)).await;
    assert!(matches!(error, Err(OutboundError::Tls { .. })), "{error:?}");
}

#[tokio::test]
async fn server_without_tls_is_refused_for_https() {
    let server = Server::start(|mut stream| async move {
        let _ = stream.read_u8().await;
        let _ = stream.write_all(ok("hello").as_bytes()).await;
    });
    let server = server.await;
    let client = Authority::new().trusted();
    let error = client.get(&https(&server)).await.unwrap_err();
    assert!(matches!(error, OutboundError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn large_body_over_http_2_is_limited() {
    let authority = Authority::new();
    let server = tls_server(authority.certify("server.test", NOW, &["h2"])).await;
    let client = Client::new(EgressConfig {
        roots_pem: Some(authority.pem()),
        response_bytes: 1_000_000,
        request_bytes: 2_000_000,
        ..on_loopback()
    });
    let send = |size| client.send(request("PUT", &https(&server), &"x".repeat(size)));
    assert!(send(900_000).await.unwrap().body.len() > 900_000);
    let error = send(1_000_000).await.unwrap_err();
    assert!(
        matches!(error, OutboundError::ResponseTooLarge { .. }),
        "{error}"
    );
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
}

#[test]
fn unusable_authorities_are_reported() {
    let error = |pem: &str| {
        let config = EgressConfig {
            roots_pem: Some(pem.as_bytes().to_vec()),
            ..EgressConfig::default()
        };
        Egress::new(config, Metrics::default()).err()
    };
    assert!(matches!(error(""), Some(RootsError::Empty)));
    let not_base64 = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    assert!(matches!(error(not_base64), Some(RootsError::Pem(_))));
    let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        error(not_a_certificate),
        Some(RootsError::Certificate(_))
    ));
}

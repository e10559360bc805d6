//! TLS: the web's authorities, and those of the operator.

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use thiserror::Error;

/// Why the operator's certificates cannot be used.
#[derive(Debug, Error)]
pub enum RootsError {
    /// The file is not PEM.
    #[error("the trusted certificates are not valid PEM: {0}")]
    Pem(String),
    /// The file has no certificate.
    #[error("there is no certificate in the file of trusted certificates")]
    Empty,
    /// A certificate cannot be an authority.
    #[error("a trusted certificate cannot be used: {0}")]
    Certificate(String),
    /// TLS itself is not available.
    #[error("TLS is not available: {0}")]
    Tls(String),
}

/// Returns the configuration of TLS with the web's authorities, and with those in PEM.
pub(crate) fn client_config(pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, RootsError> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(pem) = pem {
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| RootsError::Pem(error.to_string()))?;
            let added = roots.add(certificate);
            added.map_err(|error| RootsError::Certificate(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(RootsError::Empty);
        }
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RootsError::Tls(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

//! The certificates for the connection to the collector.

use super::otlp_target::{NamedFile, OtlpTls};
use crate::failure::Failure;
use reqwest::{Certificate, ClientBuilder, Identity};
use std::fs::File;
use std::io::Read;

/// The longest file that is read, in bytes. A bundle of all public authorities has about 220 KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Sets the authorities to trust, instead of the system's, and the certificate of this server.
///
/// # Errors
/// A user error: a file that cannot be read, or that does not have what it must. It contains
/// nothing of the file.
pub(super) fn with_tls(
    mut builder: ClientBuilder,
    tls: &OtlpTls,
) -> Result<ClientBuilder, Failure> {
    if let Some(file) = &tls.authorities {
        builder = builder.tls_certs_only(certificates(file, &read(file)?)?);
    }
    if let Some((certificate, key)) = &tls.identity {
        let mut pem = read(certificate)?;
        certificates(certificate, &pem)?;
        pem.push(b'\n');
        pem.extend(read(key)?);
        let why = "it has no private key in PEM without a password";
        builder = builder.identity(Identity::from_pem(&pem).map_err(|_| invalid(key, why))?);
    }
    Ok(builder)
}

/// Returns the certificates of a file, at least one.
fn certificates(file: &NamedFile, pem: &[u8]) -> Result<Vec<Certificate>, Failure> {
    let found = Certificate::from_pem_bundle(pem);
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| invalid(file, "it has no valid certificate in PEM"))
}

fn read(file: &NamedFile) -> Result<Vec<u8>, Failure> {
    let mut pem = Vec::new();
    let found = File::open(&file.path)
        .and_then(|found| found.take(PEM_BYTES_MAX + 1).read_to_end(&mut pem));
    match found {
        Err(error) => Err(invalid(file, &error.to_string())),
        Ok(_) if pem.len() as u64 > PEM_BYTES_MAX => Err(invalid(file, "it is longer than 1 MiB")),
        Ok(_) => Ok(pem),
    }
}

fn invalid(file: &NamedFile, why: &str) -> Failure {
    let NamedFile { variable, path } = file;
    Failure::user(format!("{variable}: {}: {why}", path.display()))
}

//! Encrypted connections to servers whose certificates the TLS library cannot parse.
//!
//! `sslmode=prefer` and `require` do not verify the server's certificate, but rustls parses it
//! anyway, for its key, and supports only version 3 of X.509. Self-signed server certificates are
//! often version 1. sqlx accepts neither a custom verifier nor a custom socket, so the handshake is
//! done here, and sqlx talks to this end through a Unix socket that only this user can access.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Error, PgConnection};

/// Returns whether the handshake failed because of the certificate.
pub(super) fn cannot_read_certificate(error: &Error) -> bool {
    let Error::Io(cause) = error else {
        return false;
    };
    let cause = cause.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// Opens an encrypted connection without verifying the server's certificate. Returns `None` if that
/// is not possible: with a client certificate, or without support for Unix sockets.
#[cfg(unix)]
pub(super) async fn connect(options: &PgConnectOptions) -> Option<Result<PgConnection, Error>> {
    use sqlx::ConnectOptions;
    let url = options.to_url_lossy();
    let has_client_certificate = url.query_pairs().any(|(name, _)| name == "sslcert");
    if has_client_certificate || options.get_socket().is_some() {
        return None;
    }
    Some(unix::connect(options).await)
}

#[cfg(not(unix))]
pub(super) async fn connect(_: &PgConnectOptions) -> Option<Result<PgConnection, Error>> {
    None
}

#[cfg(unix)]
mod unix {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::ring;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
    use sqlx::postgres::{PgConnectOptions, PgSslMode};
    use sqlx::{ConnectOptions, Error, PgConnection};
    use std::io;
    use std::os::unix::fs::DirBuilderExt;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
    use tokio::net::{TcpStream, UnixListener};
    use tokio::time::timeout;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use uuid::Uuid;

    /// The client's request for encryption.
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    const GRANTED: u8 = b'S';
    /// The port that names the socket; each folder has one.
    const PORT: u16 = 5432;
    /// sqlx connects to the socket at once, or not at all.
    const ACCEPT_TIMEOUT: Duration = Duration::from_secs(30);

    pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Error> {
        let mut server = handshake(options).await?;
        let folder = SocketFolder::create()?;
        let listener = UnixListener::bind(folder.0.join(format!(".s.PGSQL.{PORT}")))?;
        tokio::spawn(async move {
            let Ok(Ok((mut client, _))) = timeout(ACCEPT_TIMEOUT, listener.accept()).await else {
                return;
            };
            // Each end learns of an error by the end of its stream.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
        let through = options.clone().socket(&folder.0).port(PORT);
        through.ssl_mode(PgSslMode::Disable).connect().await
    }

    async fn handshake(options: &PgConnectOptions) -> Result<TlsStream<TcpStream>, Error> {
        let host = options.get_host();
        let mut stream = TcpStream::connect((host, options.get_port())).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&SSL_REQUEST).await?;
        if stream.read_u8().await? != GRANTED {
            return Err(Error::Tls("the server does not support TLS".into()));
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls(error.into()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoVerifier))
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| Error::Tls(error.into()))?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(connector.connect(name, stream).await?)
    }

    /// Accepts every certificate and every signature: since the certificate is not verified, a
    /// signature with its key proves nothing.
    #[derive(Debug)]
    struct NoVerifier;

    impl ServerCertVerifier for NoVerifier {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let algorithms = ring::default_provider().signature_verification_algorithms;
            algorithms.supported_schemes()
        }
    }

    /// A folder for one socket that only its owner can enter, removed when dropped.
    struct SocketFolder(PathBuf);

    impl SocketFolder {
        fn create() -> io::Result<SocketFolder> {
            let path = std::env::temp_dir().join(format!("kvasm-{}", Uuid::new_v4().simple()));
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            Ok(SocketFolder(path))
        }
    }

    impl Drop for SocketFolder {
        fn drop(&mut self) {
            // On failure an empty name remains in the folder for temporary files.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

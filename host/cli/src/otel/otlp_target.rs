//! Where to send traces or metrics, and how.

use super::variable_values::{millis, only, pairs, unsupported};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where to send one of the signals, and how.
#[derive(Clone)]
pub(super) struct OtlpTarget {
    pub(super) url: reqwest::Url,
    /// Names and values, which are secrets.
    pub(super) headers: Vec<(String, String)>,
    /// The timeout of a request.
    pub(super) timeout: Duration,
    /// Whether bodies are compressed with gzip.
    pub(super) gzip: bool,
    pub(super) tls: OtlpTls,
}

/// Files of TLS, of which each may be missing.
#[derive(Clone, Default)]
pub(super) struct OtlpTls {
    /// The authorities that may have signed the collector's certificate.
    pub(super) authorities: Option<NamedFile>,
    /// The certificate of this server, and its private key.
    pub(super) identity: Option<(NamedFile, NamedFile)>,
}

/// A file, and the variable that names it.
#[derive(Clone)]
pub(super) struct NamedFile {
    pub(super) variable: String,
    pub(super) path: PathBuf,
}

impl fmt::Debug for OtlpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtlpTarget(..)")
    }
}

/// One of the kinds of data that OpenTelemetry exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// Its name in variables.
    fn name(self) -> &'static str {
        match self {
            Signal::Traces => "TRACES",
            Signal::Metrics => "METRICS",
        }
    }
}

impl OtlpTarget {
    /// Reads where a signal goes; `None` if it is not exported. What has no effect is added to
    /// `warnings`.
    pub(super) fn read(
        endpoint: Option<&str>,
        signal: Signal,
        variable: impl Fn(&str) -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<OtlpTarget>, String> {
        let exporter = format!("OTEL_{}_EXPORTER", signal.name());
        let named = variable(&exporter).map(|text| text.to_ascii_lowercase());
        match named.as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(_) => return Err(unsupported(&exporter, "otlp or none")),
        }
        let Some(url) = url(endpoint, signal, &variable)? else {
            if named.is_some() {
                warnings.push(format!(
                    "{exporter} has no effect: set otel.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT too"
                ));
            }
            return Ok(None);
        };
        let options = SignalOptions {
            signal,
            variable: &variable,
        };
        let mut tls = options.tls()?;
        if url.scheme() == "http"
            && let Some(file) = std::mem::take(&mut tls).first()
        {
            let name = &file.variable;
            let warning = format!(
                "{name} has no effect: the URL of the collector does not begin with https://"
            );
            // The same variable may be for both signals.
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        options.protocol()?;
        Ok(Some(OtlpTarget {
            url,
            headers: options.headers()?,
            timeout: options.timeout()?,
            gzip: options.gzip()?,
            tls,
        }))
    }
}

impl OtlpTls {
    /// Returns one of the files, if there is any.
    pub(super) fn first(&self) -> Option<&NamedFile> {
        let certificate = self.identity.as_ref().map(|(certificate, _)| certificate);
        self.authorities.as_ref().or(certificate)
    }
}

/// The variables of a signal that begin with `OTEL_EXPORTER_OTLP_`.
struct SignalOptions<V> {
    signal: Signal,
    variable: V,
}

impl<V: Fn(&str) -> Option<String>> SignalOptions<V> {
    /// Returns the value of the variable for the signal, or else of the one for all signals, with
    /// its name.
    fn find(&self, suffix: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{suffix}", self.signal.name());
        let common = format!("OTEL_EXPORTER_OTLP_{suffix}");
        let names = [own, common].into_iter();
        let mut found = names.filter_map(|name| Some(((self.variable)(&name)?, name)));
        found.next()
    }

    fn protocol(&self) -> Result<(), String> {
        match self.find("PROTOCOL") {
            None => Ok(()),
            Some((_, name)) => only(&self.variable, &name, "http/protobuf"),
        }
    }

    fn gzip(&self) -> Result<bool, String> {
        let Some((text, name)) = self.find("COMPRESSION") else {
            return Ok(false);
        };
        match text.to_ascii_lowercase().as_str() {
            "gzip" => Ok(true),
            "none" => Ok(false),
            _ => Err(unsupported(&name, "gzip or none")),
        }
    }

    fn headers(&self) -> Result<Vec<(String, String)>, String> {
        let Some((text, name)) = self.find("HEADERS") else {
            return Ok(Vec::new());
        };
        pairs(&text).ok_or_else(|| format!("{name} must be NAME=VALUE, separated by commas"))
    }

    fn timeout(&self) -> Result<Duration, String> {
        match self.find("TIMEOUT") {
            None => Ok(Duration::from_secs(10)),
            Some((_, name)) => millis(&self.variable, &name, 10_000),
        }
    }

    fn tls(&self) -> Result<OtlpTls, String> {
        let file = |suffix| {
            let (path, variable) = self.find(suffix)?;
            let path = path.into();
            Some(NamedFile { variable, path })
        };
        let (certificate, key) = (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY"));
        let alone = |file: NamedFile, missing: &str| {
            let name = file.variable;
            format!("{name} needs OTEL_EXPORTER_OTLP_{missing} too")
        };
        Ok(OtlpTls {
            authorities: file("CERTIFICATE"),
            identity: match (certificate, key) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                (Some(certificate), None) => return Err(alone(certificate, "CLIENT_KEY")),
                (None, Some(key)) => return Err(alone(key, "CLIENT_CERTIFICATE")),
            },
        })
    }
}

/// Returns where to send a signal, if that is known.
fn url(
    endpoint: Option<&str>,
    signal: Signal,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<reqwest::Url>, String> {
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name());
    let (name, text, is_base) = match (endpoint, variable(&own), variable(BASE)) {
        (Some(base), ..) => ("otel.endpoint", base.to_owned(), true),
        (None, Some(url), _) => (own.as_str(), url, false),
        (None, None, Some(base)) => (BASE, base, true),
        (None, None, None) => return Ok(None),
    };
    let invalid = |why| format!("{name} {why}");
    let mut url = reqwest::Url::parse(&text).map_err(|_| invalid("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "has a password in it; set OTEL_EXPORTER_OTLP_HEADERS instead",
        ));
    }
    if is_base {
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("must have no query: a path is added to it"));
        }
        let signal = signal.name().to_ascii_lowercase();
        let path = format!("{}/v1/{signal}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(Some(url))
}

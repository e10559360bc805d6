//! Parsing and printing of configuration values: two functions for each kind of value.

use super::LogFormat;
use crate::open::{CacheDir, StoreSpec};
use humantime::{format_duration, parse_duration};
use kvasm::server::Network;
use kvasm::service::HOST_NAME_CHARS_MAX;
use kvasm::store::Migrate;
use std::path::PathBuf;
use std::time::Duration;

pub(super) fn toml_value(text: &str) -> String {
    match text.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => toml::Value::String(text.to_owned()).to_string(),
    }
}

pub(super) fn from_str<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| e.to_string())
}

pub(super) fn to_string(value: &impl ToString) -> String {
    value.to_string()
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    match text {
        "" => Err("the filter is empty; use off to log nothing".to_owned()),
        text => Ok(text.to_owned()),
    }
}

pub(super) fn at_least_1<T: std::str::FromStr<Err: std::fmt::Display> + Default + PartialEq>(
    text: &str,
) -> Result<T, String> {
    match from_str::<T>(text)? {
        number if number == T::default() => Err("it must be at least 1".to_owned()),
        number => Ok(number),
    }
}

/// A number of permits, up to the maximum of a semaphore.
pub(super) fn permits(text: &str) -> Result<usize, String> {
    let most = tokio::sync::Semaphore::MAX_PERMITS;
    match at_least_1(text)? {
        number if number > most => Err(format!("it must be at most {most}")),
        number => Ok(number),
    }
}

pub(super) fn store(text: &str) -> Result<Option<StoreSpec>, String> {
    text.parse().map(Some)
}

pub(super) fn show_store(store: &Option<StoreSpec>) -> String {
    store.as_ref().map_or_else(String::new, StoreSpec::shown)
}

pub(super) fn path(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "" => Err("the path is empty".to_owned()),
        text => Ok(Some(text.into())),
    }
}

pub(super) fn show_path(path: &Option<PathBuf>) -> String {
    let shown = path.as_ref().map(|path| path.display().to_string());
    shown.unwrap_or_default()
}

pub(super) fn migrate(text: &str) -> Result<Migrate, String> {
    match text {
        "alone" => Ok(Migrate::Alone),
        "always" => Ok(Migrate::Always),
        _ => Err("it must be alone or always".to_owned()),
    }
}

pub(super) fn show_migrate(migrate: &Migrate) -> String {
    match migrate {
        Migrate::Alone => "alone".to_owned(),
        Migrate::Always => "always".to_owned(),
    }
}

pub(super) fn cache_dir(text: &str) -> Result<CacheDir, String> {
    text.parse()
}

pub(super) fn show_cache_dir(dir: &CacheDir) -> String {
    match dir {
        CacheDir::Default => String::new(),
        CacheDir::None => "none".to_owned(),
        CacheDir::Folder(folder) => folder.display().to_string(),
    }
}

pub(super) fn auto(text: &str) -> Result<Option<usize>, String> {
    match text {
        "auto" => Ok(None),
        text => at_least_1(text).map(Some),
    }
}

pub(super) fn show_auto(number: &Option<usize>) -> String {
    number
        .as_ref()
        .map_or_else(|| "auto".to_owned(), usize::to_string)
}

pub(super) fn host_name(text: &str) -> Result<Option<String>, String> {
    let length = text.chars().count();
    match text {
        "auto" => Ok(None),
        _ if length == 0 || length > HOST_NAME_CHARS_MAX || text.contains(char::is_control) => {
            Err(format!(
                "expected auto, or 1 to {HOST_NAME_CHARS_MAX} characters without control characters"
            ))
        }
        name => Ok(Some(name.to_owned())),
    }
}

pub(super) fn show_host_name(name: &Option<String>) -> String {
    name.clone().unwrap_or_else(|| "auto".to_owned())
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("it must be text or json".to_owned()),
    }
}

pub(super) fn show_log_format(format: &LogFormat) -> String {
    match format {
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    }
}

/// A duration that may be zero.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => duration(text),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be more than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(e) => Err(format!("{e}; write it like 30s or 250ms")),
    }
}

/// A duration that Postgres accepts as a setting: whole milliseconds in 31 bits.
pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(1);
    let most = Duration::from_millis(i32::MAX.unsigned_abs().into());
    match duration(text)? {
        time if time < least => Err("it must be at least 1ms".to_owned()),
        time if time > most => Err("it must be at most 24 days".to_owned()),
        time => Ok(time),
    }
}

pub(super) fn show_duration(duration: &Duration) -> String {
    format_duration(*duration).to_string()
}

pub(super) fn duration_limit(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "none" => Ok(None),
        text => duration(text).map(Some),
    }
}

pub(super) fn show_duration_limit(limit: &Option<Duration>) -> String {
    limit
        .as_ref()
        .map_or_else(|| "none".to_owned(), show_duration)
}

/// Networks, separated by commas.
pub(super) fn networks(text: &str) -> Result<Vec<Network>, String> {
    match text {
        "none" => Ok(Vec::new()),
        text => text.split(',').map(|part| part.trim().parse()).collect(),
    }
}

pub(super) fn show_networks(networks: &Vec<Network>) -> String {
    match networks.as_slice() {
        [] => "none".to_owned(),
        some => {
            let texts: Vec<_> = some.iter().map(Network::to_string).collect();
            texts.join(", ")
        }
    }
}

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let unit = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((text, 1));
    let number: Result<u64, _> = number.trim().parse();
    let size = number.ok().and_then(|number| number.checked_mul(bytes));
    match size {
        Some(0) => Err("it must be at least 1".to_owned()),
        Some(size) => Ok(size),
        None => Err("invalid size; write it like 65536, 64KiB or 1MiB".to_owned()),
    }
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    usize::try_from(parse_size(text)?).map_err(|e| e.to_string())
}

pub(super) fn show_bytes(size: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, bytes)| size >= *bytes && size.is_multiple_of(*bytes));
    match unit {
        Some((unit, bytes)) => format!("{}{unit}", size / bytes),
        None => size.to_string(),
    }
}

pub(super) fn show_size(size: &usize) -> String {
    show_bytes(*size as u64)
}

pub(super) fn size_u64(text: &str) -> Result<u64, String> {
    parse_size(text)
}

pub(super) fn size_or_zero(text: &str) -> Result<u64, String> {
    match text.trim() {
        "0" => Ok(0),
        text => parse_size(text),
    }
}

pub(super) fn show_size_u64(size: &u64) -> String {
    show_bytes(*size)
}

pub(super) fn limit<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<Option<T>, String> {
    match text {
        "none" => Ok(None),
        text => from_str(text).map(Some),
    }
}

/// A URL without a password, since the configuration is printed.
pub(super) fn otlp_url(text: &str) -> Result<Option<String>, String> {
    if text == "none" {
        return Ok(None);
    }
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    let has_password = !url.username().is_empty() || url.password().is_some();
    match url.scheme() {
        "http" | "https" if has_password || url.query().is_some() => Err(
            "it must have no password and no query; set OTEL_EXPORTER_OTLP_HEADERS instead"
                .to_owned(),
        ),
        "http" | "https" => Ok(Some(text.to_owned())),
        _ => Err("it must begin with http:// or https://".to_owned()),
    }
}

pub(super) fn show_limit<T: ToString>(limit: &Option<T>) -> String {
    limit
        .as_ref()
        .map_or_else(|| "none".to_owned(), T::to_string)
}

pub(super) fn size_limit(text: &str) -> Result<Option<u64>, String> {
    match text {
        "none" => Ok(None),
        text => parse_size(text).map(Some),
    }
}

pub(super) fn show_size_limit(limit: &Option<u64>) -> String {
    limit.map_or_else(|| "none".to_owned(), show_bytes)
}

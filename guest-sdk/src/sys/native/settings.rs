//! Configuration values and secrets.

use super::{cost, declared, validate, with};
use crate::Error;
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Settings {
    config: BTreeMap<String, Vec<u8>>,
    secrets: BTreeMap<String, Vec<u8>>,
}

pub(crate) fn config_get(name: &str) -> Result<Vec<u8>, Error> {
    let value = get(name, "configuration value", |settings| &settings.config);
    match value {
        Err(Error::NotFound(_)) => declared::default_of(name).map_or(value, Ok),
        value => value,
    }
}

pub(crate) fn secret_get(name: &str) -> Result<Vec<u8>, Error> {
    validate::setting(name).and_then(|()| declared::require_secret(name))?;
    get(name, "secret", |settings| &settings.secrets)
}

fn get(
    name: &str,
    what: &str,
    values: impl Fn(&Settings) -> &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<u8>, Error> {
    cost::count_call();
    validate::setting(name)?;
    let value = with(|host| values(&host.settings).get(name).cloned());
    value.ok_or_else(|| Error::NotFound(format!("the {what} {name} is not set")))
}

pub(crate) fn set_config(name: &str, value: &str) -> Result<(), Error> {
    validate::setting(name)?;
    validate::config_value(value)?;
    with(|host| drop(host.settings.config.insert(name.into(), value.into())));
    Ok(())
}

pub(crate) fn set_secret(name: &str, secret: &[u8]) -> Result<(), Error> {
    validate::setting(name)?;
    validate::secret(secret)?;
    with(|host| drop(host.settings.secrets.insert(name.into(), secret.into())));
    Ok(())
}

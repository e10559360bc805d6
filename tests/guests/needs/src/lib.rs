//! A plugin that declares what it needs, for tests.

use kvasm_guest::{Error, config, secret};

kvasm_guest::needs! {
    http "https://api.example.com";
    http "https://*.example.org:8443";
    config retries: u32 = 3, "How often to try";
    required config currency: String, "Currency of new orders";
    required secret "stripe-key", "Key of the payment API";
    timers;
}

mod other {
    // Repeated in the same words, and something more.
    kvasm_guest::needs! {
        timers;
        secret signing_key;
    }
}

/// Returns the configuration, and how long the secret is.
#[kvasm_guest::function]
fn read() -> Result<String, Error> {
    let retries = config::get::<u32>("retries")?;
    let currency = config::get::<String>("currency")?;
    let key = secret("stripe-key")?.map_or(0, |key| key.as_bytes().len());
    Ok(format!("{retries:?} {currency:?} {key}"))
}

/// Reads a secret that is not declared.
#[kvasm_guest::function]
fn undeclared() -> Result<(), Error> {
    secret("other").map(drop)
}

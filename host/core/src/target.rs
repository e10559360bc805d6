//! Where the events of a trigger go: to a function of the active plugin, or to a URL.

use super::{HttpUrl, SettingName};
use serde::Serialize;

/// Where the events of a trigger go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The function of the active plugin with this name.
    Function(String),
    /// A URL.
    Webhook(Webhook),
}

/// A URL that gets events, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// The URL.
    #[serde(serialize_with = "display")]
    pub url: HttpUrl,
    /// The name of the app's secret that signs the requests.
    pub secret: SettingName,
}

fn display<S: serde::Serializer>(url: &HttpUrl, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(url)
}

impl Target {
    /// Returns the target of a function.
    pub fn function(name: &str) -> Target {
        Target::Function(name.to_owned())
    }

    /// Returns the webhook, if it is one.
    pub fn webhook(&self) -> Option<&Webhook> {
        match self {
            Target::Function(_) => None,
            Target::Webhook(webhook) => Some(webhook),
        }
    }

    /// Returns where a delivery of the trigger goes.
    pub fn of_delivery(&self) -> DeliveryTarget {
        match self {
            Target::Function(name) => DeliveryTarget::Function(name.clone()),
            Target::Webhook(_) => DeliveryTarget::Webhook,
        }
    }
}

/// Where a delivery goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryTarget {
    /// The function with this name, of the plugin that is active at the attempt.
    Function(String),
    /// The URL that its trigger has at the attempt.
    Webhook,
}

impl DeliveryTarget {
    /// Reads it from a column, where a webhook is an empty name.
    pub fn stored(function: String) -> DeliveryTarget {
        match function.is_empty() {
            true => DeliveryTarget::Webhook,
            false => DeliveryTarget::Function(function),
        }
    }

    /// Returns it as a column.
    pub fn column(&self) -> &str {
        self.function().unwrap_or_default()
    }

    /// Returns the name of the function, unless it is a webhook.
    pub fn function(&self) -> Option<&str> {
        match self {
            DeliveryTarget::Function(name) => Some(name),
            DeliveryTarget::Webhook => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_target_survives_its_column() {
        for target in [
            DeliveryTarget::Webhook,
            DeliveryTarget::Function("f".to_owned()),
        ] {
            let column = target.column().to_owned();
            assert_eq!(DeliveryTarget::stored(column), target);
        }
    }
}

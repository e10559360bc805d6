//! The sandbox of plugins' pages in a browser.

use axum::http::HeaderValue;
use std::fmt;
use std::str::FromStr;

/// What a browser lets pages of plugins under `/a/{app}/` do. It is sent as a
/// `Content-Security-Policy` in addition to the plugin's own, so a plugin can only restrict
/// itself further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sandbox {
    /// Only display. The page has an origin of its own: it can read neither cookies nor storage of
    /// the server's origin, and has no scripts and no forms.
    #[default]
    Strict,
    /// Also scripts, forms, windows and downloads. The page still has an origin of its own.
    Scripts,
    /// All that the server's origin may do, and so read the pages of all other apps.
    Off,
}

impl Sandbox {
    const ALL: [(&'static str, Sandbox); 3] = [
        ("strict", Sandbox::Strict),
        ("scripts", Sandbox::Scripts),
        ("off", Sandbox::Off),
    ];

    /// The policy to send.
    pub(super) fn policy(self) -> Option<HeaderValue> {
        let policy = match self {
            Sandbox::Strict => "sandbox",
            Sandbox::Scripts => {
                "sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads"
            }
            Sandbox::Off => return None,
        };
        Some(HeaderValue::from_static(policy))
    }
}

impl FromStr for Sandbox {
    type Err = String;

    fn from_str(text: &str) -> Result<Sandbox, String> {
        let found = Sandbox::ALL.iter().find(|(name, _)| *name == text);
        let (_, sandbox) = found.ok_or("it must be strict, scripts or off")?;
        Ok(*sandbox)
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Sandbox::ALL.iter().find(|(_, sandbox)| sandbox == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

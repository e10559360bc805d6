//! The kinds of exports.

/// The kind of export that an attribute creates.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// `#[function]`: callable by name.
    Function,
    /// `#[http]`: answers HTTP requests.
    Http,
    /// `#[on_change]`: handles changes of entries.
    Change,
    /// `#[cron]`: runs on a schedule.
    Cron,
    /// `#[on_timer]`: handles timers.
    Timer,
}

impl Kind {
    /// Returns the `kind` in the manifest, which is also the attribute's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Function => "function",
            Kind::Http => "http",
            Kind::Change => "on_change",
            Kind::Cron => "cron",
            Kind::Timer => "on_timer",
        }
    }

    /// Returns the noun for error messages.
    pub fn subject(self) -> &'static str {
        match self {
            Kind::Function => "a plugin function",
            Kind::Http => "an HTTP handler",
            Kind::Change => "a handler of changes",
            Kind::Cron => "a scheduled handler",
            Kind::Timer => "a handler of timers",
        }
    }
}

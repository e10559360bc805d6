//! The apps that need a person, as a walk over all apps finds them.

use kvasm_core::AppName;
use std::time::Duration;

/// The maximum number of apps of a list.
pub const CONCERNS_MAX: usize = 20;

/// Something about an app that needs a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppConcern {
    /// The app.
    pub app: AppName,
    /// The name of what it is about: of a schedule, or of a resource.
    pub name: Option<String>,
    /// How bad it is, in the unit of the list.
    pub amount: u64,
}

/// The worst concerns of a kind, in descending order, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Concerns {
    /// The number of all.
    pub total: u64,
    /// The worst ones, at most [`CONCERNS_MAX`].
    pub worst: Vec<AppConcern>,
}

impl Concerns {
    /// Adds one. Of equal ones the first are kept.
    pub fn add(&mut self, app: &AppName, name: Option<&str>, amount: u64) {
        self.total += 1;
        let place = self.worst.partition_point(|worse| worse.amount >= amount);
        if place < CONCERNS_MAX {
            let concern = AppConcern {
                app: app.clone(),
                name: name.map(str::to_owned),
                amount,
            };
            self.worst.insert(place, concern);
            self.worst.truncate(CONCERNS_MAX);
        }
    }
}

/// The apps that need a person. The size is bounded, whatever the number of apps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attention {
    /// Apps with paused triggers; the amount is their number.
    pub paused_triggers: Concerns,
    /// Apps with dead letters; the amount is their number.
    pub dead_letters: Concerns,
    /// Quotas of apps that are used for at least [`QUOTA`](Attention::QUOTA); the amount is the
    /// used part in percent.
    pub quotas: Concerns,
    /// Schedules that are late by more than [`LATE`](Attention::LATE); the amount is by how much, in
    /// ms.
    pub late_schedules: Concerns,
    /// Apps with deliveries that are due for longer than [`LATE`](Attention::LATE); the amount is for
    /// how long, in ms.
    pub overdue: Concerns,
}

impl Attention {
    /// The percentage of a quota whose use needs a person.
    pub const QUOTA: u64 = 90;
    /// The delay that needs a person.
    pub const LATE: Duration = Duration::from_secs(60);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_worst_are_kept_and_all_are_counted() {
        let mut concerns = Concerns::default();
        for number in 0..1_000_u32 {
            // In no order.
            let amount = u64::from(number * 7 % 1_000);
            let app = AppName::parse(&format!("app-{number}")).unwrap();
            concerns.add(&app, None, amount);
        }
        assert_eq!(concerns.total, 1_000);
        let amounts: Vec<_> = concerns.worst.iter().map(|worst| worst.amount).collect();
        let expected: Vec<_> = (980..1_000).rev().collect();
        assert_eq!(amounts, expected);
    }
}

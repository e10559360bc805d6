//! Rounds, medians, and the report.

use anyhow::Result;
use serde_json::{Value, json};
use std::process::Command;

/// One line of the report.
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The figures' unit.
    pub unit: &'static str,
    /// Kvasm's median.
    pub kvasm: f64,
    /// The baseline's median, if there is one.
    pub baseline: Option<f64>,
    /// The ratio that the target applies to, and its spread over the rounds.
    pub ratio: Option<[f64; 3]>,
    /// The minimum and the maximum of the rounds, if there is no ratio.
    pub spread: Option<[f64; 2]>,
    /// The target of the ratio, or of the figure if there is no ratio.
    pub target: Option<Target>,
    /// Whether writes are on disk when the response arrives, on both sides unless the name says
    /// otherwise of the baseline; none if nothing is written.
    pub durable: Option<bool>,
}

/// A bound on a figure.
#[derive(Clone, Copy)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Target {
    fn met(self, figure: f64) -> bool {
        match self {
            Target::AtMost(bound) => figure <= bound,
            Target::AtLeast(bound) => figure >= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtMost(bound) => format!("<= {bound}"),
            Target::AtLeast(bound) => format!(">= {bound}"),
        }
    }
}

/// The value below which the fraction `part` of the figures are.
pub fn percentile(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = ((figures.len() as f64 * part) as usize).min(figures.len().saturating_sub(1));
    figures.get(at).copied().unwrap_or(f64::NAN)
}

/// The median.
pub fn median(figures: &mut [f64]) -> f64 {
    percentile(figures, 0.5)
}

impl Row {
    /// A figure without a baseline.
    pub fn figure(name: impl Into<String>, unit: &'static str, kvasm: f64) -> Row {
        Row {
            name: name.into(),
            unit,
            kvasm,
            baseline: None,
            ratio: None,
            spread: None,
            target: None,
            durable: None,
        }
    }

    /// The median of figures without a baseline, and their spread.
    pub fn series(name: impl Into<String>, unit: &'static str, figures: &mut [f64]) -> Row {
        Row {
            spread: Some([0.0, 1.0].map(|part| percentile(figures, part))),
            ..Row::figure(name, unit, median(figures))
        }
    }

    /// Two series of figures measured in turn, pair by pair. The ratio is Kvasm's figure over
    /// the baseline's.
    pub fn pair(
        name: &str,
        unit: &'static str,
        pairs: &[(f64, f64)],
        target: Option<Target>,
    ) -> Row {
        let mut ratios: Vec<_> = pairs.iter().map(|(a, b)| a / b).collect();
        let mut kvasm: Vec<_> = pairs.iter().map(|(a, _)| *a).collect();
        let mut baseline: Vec<_> = pairs.iter().map(|(_, b)| *b).collect();
        Row {
            name: name.to_owned(),
            unit,
            kvasm: median(&mut kvasm),
            baseline: Some(median(&mut baseline)),
            ratio: Some([0.0, 0.5, 1.0].map(|part| percentile(&mut ratios, part))),
            spread: None,
            target,
            durable: None,
        }
    }

    /// Marks the row as durable: writes are on disk when the response arrives, on both sides if
    /// there is a baseline and the name does not say otherwise.
    pub fn durable(mut self) -> Row {
        self.durable = Some(true);
        self
    }

    /// Sets a target.
    pub fn target(mut self, target: Target) -> Row {
        self.target = Some(target);
        self
    }

    fn verdict(&self) -> f64 {
        self.ratio.map_or(self.kvasm, |[_, median, _]| median)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "kvasm": self.kvasm, "baseline": self.baseline,
            "ratio_min_median_max": self.ratio, "min_max": self.spread, "durable": self.durable,
            "target": self.target.map(Target::text),
            "met": self.target.map(|t| t.met(self.verdict())),
        })
    }

    /// Prints the row as a line of the table.
    pub fn print(&self) {
        let number = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.2}"));
        let ratio = match (self.ratio, self.spread) {
            (Some([min, median, max]), _) => format!("{median:.2} ({min:.2}..{max:.2})"),
            (None, Some([min, max])) => format!("({min:.2}..{max:.2})"),
            (None, None) => "-".to_owned(),
        };
        let verdict = self.target.map_or(String::new(), |target| {
            let met = if target.met(self.verdict()) {
                "met"
            } else {
                "MISSED"
            };
            format!("{} {met}", target.text())
        });
        println!(
            "{:<74} {:>12} {:>12} {:<9} {:<8} {:<22} {verdict}",
            self.name,
            number(Some(self.kvasm)),
            number(self.baseline),
            self.unit,
            match self.durable {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "-",
            },
            ratio
        );
    }
}

/// Prints the header of the table.
pub fn print_head() {
    println!(
        "{:<74} {:>12} {:>12} {:<9} {:<8} {:<22} target",
        "row", "kvasm", "baseline", "unit", "durable", "ratio (min..max)"
    );
}

/// All rows as JSON, with the machine, the versions and the settings.
pub fn json(rows: &[Row], settings: Value) -> Result<String> {
    let report = json!({
        "machine": machine(),
        "settings": settings,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&report)?)
}

/// The machine and the versions.
pub fn machine() -> Value {
    let line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
    json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "kernel": line("uname", "-sr"),
        "rustc": line("rustc", "--version"),
        "kvasm": env!("CARGO_PKG_VERSION"),
        "wasmtime": "48",
        "sqlite": rusqlite::version(),
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}

//! Metrics for OTLP, from the text that Prometheus scrapes: so both have the same values, and
//! whatever is added to one is in the other.

use super::metric_messages::{
    CUMULATIVE, HistogramPoint, MetricData, NumberPoint, OtlpGauge, OtlpHistogram, OtlpMetric,
    OtlpSum,
};
use super::otlp_messages::text_attribute;

/// The times of a sample, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampleTimes {
    /// The start of the process, since which counters count.
    pub(super) start: u64,
    /// When the sample was taken.
    pub(super) now: u64,
}

/// Converts the text of a scrape, in the OpenMetrics format 1.0. The name of a metric is that of its
/// family: that of a counter has no `_total`, which a Prometheus behind the collector adds again.
pub(super) fn metrics_of(text: &str, times: SampleTimes) -> Vec<OtlpMetric> {
    let mut metrics: Vec<OtlpMetric> = Vec::new();
    let mut description = (String::new(), String::new());
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# HELP ") {
            let (name, help) = line.split_once(' ').unwrap_or((line, ""));
            description = (name.to_owned(), help.trim_end_matches('.').to_owned());
        } else if let Some((name, kind)) = typed(line) {
            let help = match &description {
                (of, help) if of == name => help.clone(),
                _ => String::new(),
            };
            metrics.push(empty(name, kind, help));
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            if let (Some(metric), Some((_, unit))) = (metrics.last_mut(), unit.split_once(' ')) {
                metric.unit = ucum(unit).to_owned();
            }
        } else if !line.starts_with('#')
            && let (Some(metric), Some(sample)) = (metrics.last_mut(), TextSample::parse(line))
        {
            add(metric, sample, times);
        }
    }
    metrics.retain(|metric| !is_empty(metric));
    metrics
}

fn typed(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# TYPE ")?.split_once(' ')
}

/// A unit by the Unified Code for Units of Measure, which OTLP uses.
fn ucum(unit: &str) -> &str {
    match unit {
        "seconds" => "s",
        "bytes" => "By",
        other => other,
    }
}

fn empty(name: &str, kind: &str, description: String) -> OtlpMetric {
    let sum = |is_monotonic| {
        MetricData::Sum(OtlpSum {
            points: Vec::new(),
            temporality: CUMULATIVE,
            is_monotonic,
        })
    };
    let data = match kind {
        "counter" => sum(true),
        // By the specification of OpenTelemetry.
        "info" => sum(false),
        "histogram" => MetricData::Histogram(OtlpHistogram {
            points: Vec::new(),
            temporality: CUMULATIVE,
        }),
        _ => MetricData::Gauge(OtlpGauge::default()),
    };
    let name = match kind {
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    };
    OtlpMetric {
        name,
        description,
        unit: String::new(),
        data: Some(data),
    }
}

fn is_empty(metric: &OtlpMetric) -> bool {
    match &metric.data {
        None => true,
        Some(MetricData::Gauge(gauge)) => gauge.points.is_empty(),
        Some(MetricData::Sum(sum)) => sum.points.is_empty(),
        Some(MetricData::Histogram(histogram)) => histogram.points.is_empty(),
    }
}

/// A line with a value.
struct TextSample<'t> {
    name: &'t str,
    /// Without `le`.
    labels: Vec<(&'t str, String)>,
    /// The upper bound of a bucket.
    bound: Option<f64>,
    value: f64,
}

impl TextSample<'_> {
    fn parse(line: &str) -> Option<TextSample<'_>> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at_checked(end)?;
        let (mut labels, mut bound) = (Vec::new(), None);
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"")?;
                let (text, after) = quoted(after)?;
                match label {
                    "le" => bound = Some(number(&text)?),
                    label => labels.push((label, text)),
                }
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = rest.strip_prefix('}')?;
        }
        Some(TextSample {
            name,
            labels,
            bound,
            value: number(rest.trim_start().split(' ').next()?)?,
        })
    }
}

/// Reads a text up to its closing quote, and returns what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        other => other.parse().ok(),
    }
}

fn add(metric: &mut OtlpMetric, sample: TextSample<'_>, times: SampleTimes) {
    let suffix = sample.name.strip_prefix(metric.name.as_str());
    let attributes = sample
        .labels
        .iter()
        .map(|(label, text)| text_attribute(label, text))
        .collect();
    let point = |start, attributes| NumberPoint {
        start_time_unix_nano: start,
        time_unix_nano: times.now,
        value: Some(sample.value),
        attributes,
    };
    match &mut metric.data {
        None => {}
        Some(MetricData::Gauge(gauge)) => gauge.points.push(point(0, attributes)),
        Some(MetricData::Sum(sum)) => sum.points.push(point(times.start, attributes)),
        Some(MetricData::Histogram(histogram)) => {
            // The lines of a series follow each other.
            let last = histogram.points.last();
            if last.is_none_or(|point| point.attributes != attributes) {
                histogram.points.push(HistogramPoint {
                    start_time_unix_nano: times.start,
                    time_unix_nano: times.now,
                    attributes,
                    ..HistogramPoint::default()
                });
            }
            if let Some(point) = histogram.points.last_mut() {
                match suffix {
                    Some("_sum") => point.sum = Some(sample.value),
                    Some("_count") => point.count = sample.value as u64,
                    _ => bucket(point, &sample),
                }
            }
        }
    }
}

/// Adds a bucket, which counts what is not in the earlier ones.
fn bucket(point: &mut HistogramPoint, sample: &TextSample<'_>) {
    let Some(bound) = sample.bound else {
        return;
    };
    let earlier: u64 = point.bucket_counts.iter().sum();
    let count = (sample.value as u64).saturating_sub(earlier);
    point.bucket_counts.push(count);
    if bound.is_finite() {
        point.explicit_bounds.push(bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: SampleTimes = SampleTimes { start: 1, now: 2 };

    fn only(text: &str) -> OtlpMetric {
        let mut metrics = metrics_of(text, TIMES);
        assert_eq!(metrics.len(), 1, "{metrics:?}");
        metrics.remove(0)
    }

    #[test]
    fn counter_is_a_monotonic_sum() {
        let text = "# HELP a_calls Calls of it.\n# TYPE a_calls counter\n\
                    a_calls_total{app=\"x\\\"\\n\\\\{,}=\",b=\"\"} 3\n# EOF\n";
        let metric = only(text);
        assert_eq!(
            (&*metric.name, &*metric.description),
            ("a_calls", "Calls of it")
        );
        let expected = OtlpSum {
            points: vec![NumberPoint {
                start_time_unix_nano: 1,
                time_unix_nano: 2,
                value: Some(3.0),
                attributes: vec![
                    text_attribute("app", "x\"\n\\{,}="),
                    text_attribute("b", ""),
                ],
            }],
            temporality: CUMULATIVE,
            is_monotonic: true,
        };
        assert_eq!(metric.data, Some(MetricData::Sum(expected)));
    }

    #[test]
    fn histogram_has_counts_of_each_bucket() {
        let text = "# HELP t_seconds T.\n# TYPE t_seconds histogram\n# UNIT t_seconds seconds\n\
                    t_seconds_sum{n=\"a\"} 2.5\nt_seconds_count{n=\"a\"} 5\n\
                    t_seconds_bucket{le=\"0.1\",n=\"a\"} 2\nt_seconds_bucket{le=\"1.0\",n=\"a\"} 2\n\
                    t_seconds_bucket{le=\"+Inf\",n=\"a\"} 5\n\
                    t_seconds_sum{n=\"b\"} 0\nt_seconds_count{n=\"b\"} 0\n";
        let metric = only(text);
        assert_eq!(metric.unit, "s");
        let Some(MetricData::Histogram(histogram)) = metric.data else {
            panic!("no histogram");
        };
        let [a, b] = &histogram.points[..] else {
            panic!("{histogram:?}");
        };
        assert_eq!((a.sum, a.count), (Some(2.5), 5));
        assert_eq!(a.bucket_counts, [2, 0, 3]);
        assert_eq!(a.explicit_bounds, [0.1, 1.0]);
        assert_eq!(b.attributes, [text_attribute("n", "b")]);
    }

    #[test]
    fn gauges_and_infos_keep_their_values_and_lines_that_are_neither_are_skipped() {
        let text =
            "# TYPE g gauge\ng -1.5\nnonsense\n\n{\ng{a=\"b} 1\n# TYPE none counter\n# EOF\n";
        let Some(MetricData::Gauge(gauge)) = only(text).data else {
            panic!("no gauge");
        };
        assert_eq!(gauge.points.len(), 1);
        assert_eq!(gauge.points[0].value, Some(-1.5));
        let info = only("# TYPE b info\nb_info{version=\"1\"} 1\n");
        assert_eq!(info.name, "b_info");
        assert!(matches!(info.data, Some(MetricData::Sum(sum)) if !sum.is_monotonic));
    }

    #[test]
    fn every_metric_of_the_registry_is_converted() {
        let metrics = kvasm::metrics::Metrics::default();
        metrics.store("commit", std::time::Duration::from_millis(3));
        let text = metrics.encode();
        let families = text.lines().filter(|line| line.starts_with("# TYPE "));
        let with_samples = families.filter(|line| {
            let name = typed(line).unwrap().0;
            text.lines().any(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| {
                    ["{", " ", "_total", "_info", "_sum"]
                        .iter()
                        .any(|next| rest.starts_with(next))
                })
            })
        });
        let names: Vec<_> = with_samples.map(|line| typed(line).unwrap().0).collect();
        let converted = metrics_of(&text, TIMES);
        let found: Vec<_> = converted
            .iter()
            .map(|metric| metric.name.trim_end_matches("_info"))
            .collect();
        assert_eq!(found, names);
        assert!(
            converted
                .iter()
                .all(|metric| !metric.description.is_empty())
        );
    }
}

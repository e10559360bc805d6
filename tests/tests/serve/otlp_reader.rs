//! Reads the messages of OTLP 1.x by the numbers of their fields, independently of what writes them.

use std::collections::BTreeMap;

/// The value of a field.
#[derive(Debug, Clone, Copy)]
enum Wire<'b> {
    /// Also of the types with 4 and 8 bytes.
    Number(u64),
    Bytes(&'b [u8]),
}

/// A message: its fields in order.
struct ProtoFields<'b>(Vec<(u64, Wire<'b>)>);

impl<'b> ProtoFields<'b> {
    fn of(mut bytes: &'b [u8]) -> ProtoFields<'b> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let wire = match tag & 7 {
                0 => Wire::Number(varint(&mut bytes)),
                1 => Wire::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let len = varint(&mut bytes);
                    Wire::Bytes(take(&mut bytes, len as usize))
                }
                5 => {
                    let four = take(&mut bytes, 4).try_into().unwrap();
                    Wire::Number(u32::from_le_bytes(four).into())
                }
                other => panic!("wire type {other}"),
            };
            fields.push((tag >> 3, wire));
        }
        ProtoFields(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = Wire<'b>> {
        let of_number = self.0.iter().filter(move |(field, _)| *field == number);
        of_number.map(|(_, wire)| *wire)
    }

    fn messages(&self, number: u64) -> impl Iterator<Item = ProtoFields<'b>> {
        self.all(number).map(|wire| ProtoFields::of(bytes_of(wire)))
    }

    fn bytes(&self, number: u64) -> &'b [u8] {
        self.all(number).last().map_or(&[], bytes_of)
    }

    fn text(&self, number: u64) -> String {
        String::from_utf8(self.bytes(number).to_vec()).unwrap()
    }

    fn number(&self, number: u64) -> u64 {
        self.all(number).last().map_or(0, number_of)
    }

    /// Numbers of 8 bytes, packed or not.
    fn packed(&self, number: u64) -> Vec<u64> {
        let parts = self.all(number).flat_map(|wire| match wire {
            Wire::Number(one) => vec![one],
            Wire::Bytes(bytes) => {
                let (eights, rest) = bytes.as_chunks();
                assert!(rest.is_empty());
                eights
                    .iter()
                    .map(|eight| u64::from_le_bytes(*eight))
                    .collect()
            }
        });
        parts.collect()
    }
}

fn bytes_of(wire: Wire<'_>) -> &[u8] {
    match wire {
        Wire::Bytes(bytes) => bytes,
        Wire::Number(number) => panic!("a number, {number}"),
    }
}

fn number_of(wire: Wire<'_>) -> u64 {
    match wire {
        Wire::Number(number) => number,
        Wire::Bytes(bytes) => panic!("bytes, {bytes:?}"),
    }
}

fn take<'b>(bytes: &mut &'b [u8], len: usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
    }
    panic!("a varint of more than 10 bytes");
}

/// Attributes as texts.
fn attributes(fields: &ProtoFields<'_>, number: u64) -> BTreeMap<String, String> {
    let pair = |pair: ProtoFields<'_>| {
        let value = ProtoFields::of(pair.bytes(2));
        let (field, wire) = *value.0.first().expect("a value");
        let text = match field {
            1 => value.text(1),
            2 => (number_of(wire) != 0).to_string(),
            3 => number_of(wire).cast_signed().to_string(),
            other => panic!("a value of type {other}"),
        };
        (pair.text(1), text)
    };
    fields.messages(number).map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A span as it was exported.
#[derive(Debug, Clone)]
pub struct ReadSpan {
    pub trace_id: String,
    pub id: String,
    pub parent: String,
    pub state: String,
    pub name: String,
    pub kind: u64,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
    /// The code: 2 is an error.
    pub status: u64,
}

impl ReadSpan {
    fn of(span: &ProtoFields<'_>) -> ReadSpan {
        let link = |link: ProtoFields<'_>| (hex(link.bytes(1)), hex(link.bytes(2)));
        ReadSpan {
            trace_id: hex(span.bytes(1)),
            id: hex(span.bytes(2)),
            state: span.text(3),
            parent: hex(span.bytes(4)),
            name: span.text(5),
            kind: span.number(6),
            start: span.number(7),
            end: span.number(8),
            attributes: attributes(span, 9),
            links: span.messages(13).map(link).collect(),
            status: ProtoFields::of(span.bytes(15)).number(3),
        }
    }
}

/// The attributes of the resource of an export, of any signal.
pub fn resource_of(export: &[u8]) -> BTreeMap<String, String> {
    let resource = ProtoFields::of(export).messages(1).next().unwrap();
    attributes(&ProtoFields::of(resource.bytes(1)), 1)
}

/// The spans of an export.
pub fn spans_of(export: &[u8]) -> Vec<ReadSpan> {
    let resources = ProtoFields::of(export);
    let scopes = resources.messages(1).flat_map(|resource| {
        let scopes: Vec<_> = resource.messages(2).collect();
        scopes
    });
    let spans = scopes.flat_map(|scope| {
        assert_eq!(ProtoFields::of(scope.bytes(1)).text(1), "kvasm");
        let spans: Vec<_> = scope.messages(2).map(|span| ReadSpan::of(&span)).collect();
        spans
    });
    spans.collect()
}

/// The name of a series, and its labels.
pub type SeriesKey = (String, BTreeMap<String, String>);

/// The values of an export of metrics, as Prometheus names them.
pub fn series_of(export: &[u8]) -> BTreeMap<SeriesKey, f64> {
    let mut series = BTreeMap::new();
    for resource in ProtoFields::of(export).messages(1) {
        for scope in resource.messages(2) {
            for metric in scope.messages(2) {
                add_metric(&mut series, &metric);
            }
        }
    }
    series
}

fn add_metric(series: &mut BTreeMap<SeriesKey, f64>, metric: &ProtoFields<'_>) {
    let name = metric.text(1);
    assert!(!metric.text(2).is_empty(), "{name} has no description");
    for gauge in metric.messages(5) {
        for point in gauge.messages(1) {
            series.insert((name.clone(), attributes(&point, 7)), value(&point));
        }
    }
    for sum in metric.messages(7) {
        assert_eq!(sum.number(2), 2, "{name} is cumulative");
        let name = match sum.number(3) {
            0 => name.clone(),
            _ => format!("{name}_total"),
        };
        for point in sum.messages(1) {
            let (start, now) = (point.number(2), point.number(3));
            assert!(start > 0 && start <= now, "{name}: {start} to {now}");
            series.insert((name.clone(), attributes(&point, 7)), value(&point));
        }
    }
    for histogram in metric.messages(9) {
        assert_eq!(histogram.number(2), 2, "{name} is cumulative");
        for point in histogram.messages(1) {
            add_histogram(series, &name, &point);
        }
    }
}

fn value(point: &ProtoFields<'_>) -> f64 {
    f64::from_bits(point.all(4).last().map(number_of).expect("a value"))
}

fn add_histogram(series: &mut BTreeMap<SeriesKey, f64>, name: &str, point: &ProtoFields<'_>) {
    let labels = attributes(point, 9);
    let mut put = |suffix: &str, labels: &BTreeMap<_, _>, value| {
        series.insert((format!("{name}{suffix}"), labels.clone()), value);
    };
    put("_count", &labels, point.number(4) as f64);
    let sum = point.all(5).last().map(number_of).expect("a sum");
    put("_sum", &labels, f64::from_bits(sum));
    let bounds = point.packed(7).into_iter().map(f64::from_bits);
    let counts = point.packed(6);
    assert_eq!(counts.len(), bounds.len() + 1, "{name}");
    let mut below = 0;
    for (bound, count) in bounds.chain([f64::INFINITY]).zip(counts) {
        below += count;
        let mut labels = labels.clone();
        labels.insert("le".to_owned(), format!("{bound:?}"));
        put("_bucket", &labels, below as f64);
    }
}

/// The values of a scrape, with the same names.
pub fn series_of_text(text: &str) -> BTreeMap<SeriesKey, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split("\",");
        let labels = labels.filter(|label| !label.is_empty()).map(|label| {
            let (label, value) = label.split_once('=').unwrap();
            let value = match (label, value.trim_matches('"')) {
                ("le", "+Inf") => "inf".to_owned(),
                ("le", bound) => format!("{:?}", bound.parse::<f64>().unwrap()),
                (_, text) => text.to_owned(),
            };
            (label.to_owned(), value)
        });
        let key = (name.to_owned(), labels.collect());
        (key, value.parse().unwrap())
    });
    series.collect()
}

//! An app whose stored log is as large as it may be.

use crate::stored_logs::stored_bytes;
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{App, Level, Timestamp};
use kvasm::service::{LogRecord, LogSource};
use kvasm::store::{SegmentKind, Store};
use kvasm_tests::server::Server;
use std::sync::Arc;
use uuid::Uuid;

/// Lines that a host writes at once without leaving some out.
const LINES_OF_HOST: u32 = 9_000;
/// Fewer lines than the queue of an app takes.
const LINES_OF_FLUSH: u32 = 1_000;

/// A line of one call. One in a hundred is a warning, and none is an error.
fn line(number: u32, request_id: Uuid) -> LogRecord {
    LogRecord {
        seq: 0,
        at: Timestamp::now(),
        level: match number % 100 {
            0 => Level::Warn,
            _ => Level::Info,
        },
        source: LogSource::Plugin,
        function: "place".into(),
        request_id,
        trace_id: None,
        message: format!(
            "order {number}: 3 items for 42.00 EUR, paid by card, sent to the warehouse"
        ),
        discarded: false,
        cost: None,
    }
}

/// Fills the log of an app by hosts one after the other. Returns the request of a line that is among
/// the oldest.
pub async fn fill(store: &Arc<dyn Store>, secret: &str, app: &App) -> Uuid {
    let retention = DispatchOptions::default().logs;
    let full = usize::try_from(retention.bytes_of_app).unwrap();
    let old = Uuid::now_v7();
    let mut bytes = 0;
    while bytes < full - full / 16 {
        let host = Server::over(Arc::clone(store), Some(secret.to_owned())).await;
        let keeper = host.host.log_keeper();
        keeper.attach();
        for number in 0..LINES_OF_HOST {
            let is_first = bytes == 0 && number == 0;
            let request = if is_first { old } else { Uuid::now_v7() };
            host.host.logs().push(app.id, [line(number, request)]);
            if number % LINES_OF_FLUSH == 0 {
                keeper.flush(&retention).await.unwrap();
            }
        }
        keeper.flush(&retention).await.unwrap();
        bytes = stored_bytes(store, app, SegmentKind::Lines).await;
    }
    println!("{bytes} bytes of stored lines");
    old
}

/// What the log view asks for, and whether there are such lines.
pub fn views(old: Uuid) -> Vec<(String, bool)> {
    let old = format!("&request={old}");
    let nobody = format!("&request={}", Uuid::nil());
    let filters = [
        ("", true),
        ("&level=warn", true),
        ("&level=error", false),
        ("&function=place", true),
        ("&function=absent", false),
        ("&grep=order", true),
        ("&grep=absent", false),
        ("&since=0&grep=absent", false),
        (&old, true),
        (&nobody, false),
    ];
    let view = |filter| format!("/v1/apps/shop/logs?limit=200{filter}");
    let views = filters.into_iter();
    views
        .map(|(filter, exists)| (view(filter), exists))
        .collect()
}

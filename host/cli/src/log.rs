//! The server's own log. Lines go through a bounded queue to a separate thread, so that a slow or
//! closed standard error does not block the server.
//!
//! `tracing-appender` bounds its queue by lines, not bytes, and if it cannot stop its worker it
//! prints to standard output, which can block or panic.

use kvasm::metrics::Metrics;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// Maximum bytes of queued lines. Further lines are dropped.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// Overhead of a queued line, in addition to its text.
const LINE_OVERHEAD: usize = 64;
/// Maximum length of a line, in bytes. A longer line is truncated.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// How long the process waits at its end for lines to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A writer of log lines that never blocks. Clones write to the same queue.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<LogShared>);

struct LogShared {
    queue: Mutex<LogQueue>,
    /// A line was added.
    added: Condvar,
    /// The queue was emptied.
    emptied: Condvar,
    metrics: Metrics,
}

#[derive(Default)]
struct LogQueue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines dropped since the last line that was written.
    dropped: u64,
    /// Whether the thread is writing a line.
    writing: bool,
}

/// Waits on drop, for a bounded time, until the lines are written.
pub(super) struct LogGuard(LogWriter);

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.wait_until_written(CLOSE_TIMEOUT);
    }
}

impl LogWriter {
    /// Starts the thread that writes to `out`. `dropped_line` formats the line that reports how
    /// many lines were dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        metrics: Metrics,
        dropped_line: fn(u64) -> String,
    ) -> io::Result<(LogWriter, LogGuard)> {
        let writer = LogWriter(Arc::new(LogShared {
            queue: Mutex::default(),
            added: Condvar::new(),
            emptied: Condvar::new(),
            metrics,
        }));
        let shared = Arc::clone(&writer.0);
        std::thread::Builder::new()
            .name("kvasm-log".to_owned())
            .spawn(move || shared.write_all(out, dropped_line))?;
        Ok((writer.clone(), LogGuard(writer)))
    }

    fn push(&self, line: &[u8]) {
        let kept = line.get(..LINE_BYTES_MAX).unwrap_or(line);
        let bytes = kept.len() + LINE_OVERHEAD;
        let mut queue = self.0.queue.lock();
        if queue.bytes + bytes > QUEUE_BYTES_MAX {
            queue.dropped = queue.dropped.saturating_add(1);
            drop(queue);
            return self.0.metrics.log_lines_dropped(1);
        }
        let mut owned = kept.to_vec();
        if kept.len() < line.len() {
            owned.extend_from_slice(b"...\n");
        }
        queue.bytes += bytes;
        queue.lines.push_back(owned);
        drop(queue);
        self.0.added.notify_one();
    }

    fn wait_until_written(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        let mut queue = self.0.queue.lock();
        while queue.writing || !queue.lines.is_empty() || queue.dropped > 0 {
            if self.0.emptied.wait_until(&mut queue, deadline).timed_out() {
                return;
            }
        }
    }
}

impl LogShared {
    /// The thread: writes lines until the process ends. A line that cannot be written counts as
    /// dropped.
    fn write_all(&self, mut out: impl Write, dropped_line: fn(u64) -> String) {
        let mut lost = 0;
        loop {
            let (line, dropped) = self.next();
            lost += dropped;
            if let Some(line) = line
                && out.write_all(&line).and_then(|()| out.flush()).is_err()
            {
                lost += 1;
                self.metrics.log_lines_dropped(1);
            }
            if lost > 0 && out.write_all(dropped_line(lost).as_bytes()).is_ok() {
                lost = 0;
            }
        }
    }

    /// Waits for the next line. Also returns how many lines were dropped after it.
    fn next(&self) -> (Option<Vec<u8>>, u64) {
        let mut queue = self.queue.lock();
        queue.writing = false;
        while queue.lines.is_empty() && queue.dropped == 0 {
            self.emptied.notify_all();
            self.added.wait(&mut queue);
        }
        queue.writing = true;
        let line = queue.lines.pop_front();
        if let Some(line) = &line {
            let bytes = line.len().min(LINE_BYTES_MAX) + LINE_OVERHEAD;
            queue.bytes = queue.bytes.saturating_sub(bytes);
        }
        // They were dropped when the queue was full, so they come after all of it.
        let dropped = match queue.lines.is_empty() {
            true => std::mem::take(&mut queue.dropped),
            false => 0,
        };
        (line, dropped)
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&self) -> LogWriter {
        self.clone()
    }
}

/// Logs the message of a panic. The default hook writes to standard error itself, which could block
/// a server thread.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(thread, "{panic}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Accepts a line each time that the test allows it.
    struct Stalled {
        go: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(io::Error::other)?;
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.written.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn stalled_log_reader_drops_lines_without_blocking() {
        let metrics = Metrics::default();
        let ((let_go, go), (written, lines)) = (channel(), channel());
        let out = Stalled { go, written };
        let shown = |dropped| format!("{dropped} dropped\n");
        let (mut log, guard) = LogWriter::start(out, metrics.clone(), shown).unwrap();
        let count = 2 * QUEUE_BYTES_MAX / LINE_BYTES_MAX;
        for n in 0..count {
            let line = format!("{n} {}\n", "x".repeat(2 * LINE_BYTES_MAX));
            log.write_all(line.as_bytes()).unwrap();
        }
        assert!(log.0.queue.lock().bytes <= QUEUE_BYTES_MAX);
        for _ in 0..=count {
            let_go.send(()).unwrap();
        }
        let (mut taken, mut next) = (0, 0);
        let wait = Duration::from_secs(60);
        let dropped: usize = loop {
            let line = lines.recv_timeout(wait).unwrap();
            match line.strip_suffix(" dropped\n") {
                Some(dropped) => break dropped.parse().unwrap(),
                None => {
                    // In order. A line that is accepted late makes room for one after those that
                    // were dropped.
                    let number: usize = line.split_once(" x").unwrap().0.parse().unwrap();
                    assert!(number >= next, "{line}");
                    next = number + 1;
                    assert!(line.ends_with("x...\n") && line.len() <= LINE_BYTES_MAX + 4);
                    taken += 1;
                }
            }
        };
        assert_eq!(taken + dropped, count);
        let counted = format!("kvasm_log_lines_dropped_total {dropped}\n");
        assert!(metrics.encode().contains(&counted), "{}", metrics.encode());
        // Without a reader, the end waits only for a moment.
        drop(lines);
        drop(let_go);
        drop(guard);
    }
}
